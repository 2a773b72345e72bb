"""A model becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from etam_edge.bundle import MANIFEST, Bundle, Checkpoint, GraphEntry, Manifest, check_target, sha256_of, writing
from etam_edge.exporters.graphs.modules import graph_modules, signatures
from etam_edge.exporters.graphs.tracing import OPSET, export_graph
from etam_edge.exporters.verify import verify_graphs
from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.recipe import FP32, Recipe
from etam_edge.spec import GraphSizes, Pooling

PACKAGES = ("etam-edge", "torch", "onnx", "onnxslim", "onnxruntime", "numpy")


def export_bundle(
    model: EfficientTAM,
    output: Path,
    sizes: GraphSizes,
    checkpoint: dict[str, str],
    approximation: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Trace the four graphs in fp32, verify them against the model, and write the bundle at once.

    Args:
        model: in evaluation mode, float32, on the CPU.
        output: directory of the bundle; it appears when all is done.
        checkpoint: `name` and `sha256` of the weights, for the manifest.
        approximation: how the model differs from the checkpoint's own on purpose.
        overwrite: replace a bundle that is there.
        progress: called with the name of each step as it begins; there are `len(STEPS)`.

    Raises:
        InputError: the output is taken or cannot be written.
        ExportError: the graphs are not static or do not answer what the model answers.
    """
    check_target(output, overwrite)
    with writing(output, overwrite) as draft:
        folder = draft / "graphs"
        folder.mkdir()
        all_signatures = signatures(model.spec, sizes)
        for name, module in graph_modules(model, sizes).items():
            progress(name)
            export_graph(module, all_signatures[name], folder / f"{name}.onnx")
        progress("verify")
        verification = verify_graphs(folder, model, sizes)
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
            verification=verification,
            versions={name: version(name) for name in PACKAGES},
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.load(output)


STEPS = ("encode", "prompt", "remember", "track", "verify")


def pooled(model: EfficientTAM) -> EfficientTAM:
    """The same weights with memory attention pooled 2x2 in Lemma 1's form: an approximation of an unpooled model."""
    other = EfficientTAM(model.spec.replace(pooling=Pooling.SCORE_BIAS)).eval()
    other.load_state_dict(model.state_dict())
    return other
