"""Export of a PyTorch model as an fp32 bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from etam_edge.bundle import (
    MANIFEST,
    Bundle,
    Checkpoint,
    GraphEntry,
    Manifest,
    check_target,
    graph_signatures,
    sha256_of,
    writing,
)
from etam_edge.exporters.answer import check_against_model, model_answer
from etam_edge.exporters.graphs.modules import graph_modules
from etam_edge.exporters.graphs.tracing import OPSET, export_graph
from etam_edge.exporters.verify import verify_graphs
from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.recipe import FP32, Recipe
from etam_edge.spec import GraphSizes, Pooling

PACKAGES = ("etam-edge", "torch", "onnx", "onnx-ir", "onnxslim", "onnxruntime", "numpy")
"""Packages whose versions the manifest records."""
STEPS = ("encode", "prompt", "remember", "track", "verify")
"""Steps of an export, in order."""


def export_bundle(
    model: EfficientTAM,
    output: Path,
    sizes: GraphSizes,
    checkpoint: dict[str, str],
    approximation: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Trace the four graphs in fp32, verify them against the model, and write the bundle.

    Args:
        model: in evaluation mode, float32, on the CPU.
        output: directory of the bundle; it appears when all is written and verified.
        sizes: of the graphs.
        checkpoint: `name` and `sha256` of the weights, for the manifest.
        approximation: how the model differs from the checkpoint's own on purpose.
        overwrite: replace an existing bundle.
        progress: called with each of STEPS before it begins.

    Raises:
        InputError: the output exists or cannot be written.
        ExportError: a graph is not static, or its outputs differ from the model's.
    """
    check_target(output, overwrite)
    with writing(output, overwrite) as draft:
        folder = draft / "graphs"
        folder.mkdir()
        all_signatures = graph_signatures(model.spec, sizes)
        for name, module in graph_modules(model, sizes).items():
            progress(name)
            export_graph(module, all_signatures[name], folder / f"{name}.onnx")
        manifest = Manifest(
            model=model.spec,
            sizes=sizes,
            precision="fp32",
            recipe=Recipe.uniform(FP32),
            graphs={
                name: GraphEntry(f"graphs/{name}.onnx", sha256_of(folder / f"{name}.onnx"), OPSET, signature)
                for name, signature in all_signatures.items()
            },
            checkpoint=Checkpoint.from_dict(checkpoint),
            approximation=approximation,
            versions={name: version(name) for name in PACKAGES},
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        progress("verify")
        verification = verify_graphs(Bundle(draft, manifest), model)
        answer = model_answer(model, sizes)
        manifest = dataclasses.replace(manifest, verification=verification, answer=answer)
        check_against_model(Bundle(draft, manifest), answer)
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.load(output)


def pooled(model: EfficientTAM) -> EfficientTAM:
    """The same weights with memory attention pooled 2x2 as in Lemma 1: an approximation of an unpooled model."""
    other = EfficientTAM(model.spec.replace(pooling=Pooling.SCORE_BIAS)).eval()
    other.load_state_dict(model.state_dict())
    return other
