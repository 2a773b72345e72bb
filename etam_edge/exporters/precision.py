"""An fp32 bundle becomes one of another precision: Q/DQ pairs and float16 where the recipe says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import onnx

from etam_edge.bundle import MANIFEST, Bundle, Calibration, GraphEntry, GraphSignature, TensorSpec, sha256_of, writing
from etam_edge.errors import ExportError, InputError
from etam_edge.exporters.graphs.tracing import static_problems
from etam_edge.exporters.passes.float16 import convert_to_float16
from etam_edge.exporters.regions import RESIZE, node_regions
from etam_edge.recipe import FP16, FP32, INT8, MULTIPLICATIONS, Recipe
from etam_edge.spec import ModelSpec

BORDERS = {
    "neck": ("image_features", "conditioned_features", "features"),
    "memory_scores": ("bank_keys", "memory_keys", "unpooled_keys"),
    "memory_values": ("bank_values", "memory_values", "unpooled_values"),
}
"""Tensors that pass between graphs, by the region whose float type they have. All others are what the host reads."""


class Quantizer(Protocol):
    """Puts Q/DQ pairs around multiplications."""

    def __call__(self, graph: str, model: onnx.ModelProto, nodes: Sequence[str]) -> onnx.ModelProto:
        """
        Args:
            graph: name of the graph.
            model: float32 throughout.
            nodes: names of the Conv, MatMul and Gemm nodes to quantize.
        """


def derive_bundle(
    source: Bundle,
    output: Path,
    recipe: Recipe,
    precision: str,
    calibration: dict[str, Any],
    quantize: Quantizer | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Write `source` in the recipe's precisions.

    Args:
        source: an fp32 bundle.
        output: directory of the new bundle; it appears when all is done.
        recipe: a precision for every region.
        precision: one word for the manifest.
        calibration: for the manifest. What of an int8 region was left unquantized is added as `left_float`.
        quantize: needed where the recipe has int8 regions.
        overwrite: replace a bundle that is there.
        progress: called with the name of each graph as its turn comes.

    Raises:
        InputError: the source is not fp32, or the output is taken or cannot be written.
        ExportError: a graph cannot be written in these precisions.
    """
    manifest = source.manifest
    if manifest.recipe.precision != FP32:
        raise InputError(f"{source.path} is {manifest.precision}; other precisions are made from an fp32 bundle")
    if recipe.int8_regions and quantize is None:
        raise InputError(f"int8 in {', '.join(recipe.int8_regions)} needs calibration; add --calibration CLIPS")
    left_float: list[str] = []
    with writing(output, overwrite) as draft:
        (draft / "graphs").mkdir()
        entries = {}
        for name, entry in manifest.graphs.items():
            progress(name)
            signature = typed_signature(entry.signature, recipe)
            model, left = typed_graph(
                name, onnx.load(source.graph_path(name)), signature, manifest.model, recipe, quantize
            )
            left_float += [f"{name}:{node}" for node in left]
            path = draft / entry.file
            onnx.save(model, path)
            entries[name] = GraphEntry(entry.file, sha256_of(path), entry.opset, signature)
        if recipe.int8_regions:
            calibration = {**calibration, "left_float": left_float}
        made = dataclasses.replace(
            manifest,
            precision=precision,
            recipe=recipe,
            graphs=entries,
            calibration=Calibration.from_dict(calibration) if calibration else None,
            accuracy=None,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        (draft / MANIFEST).write_text(made.to_json(), encoding="utf-8")
    return Bundle.load(output)


def typed_graph(
    name: str,
    model: onnx.ModelProto,
    signature: GraphSignature,
    spec: ModelSpec,
    recipe: Recipe,
    quantize: Quantizer | None,
) -> tuple[onnx.ModelProto, list[str]]:
    """One graph in the recipe's precisions, and the multiplications of its int8 regions that stayed float.

    Raises:
        ExportError: the result is not static, or a quantizer touched what it was not asked to.
    """
    regions = node_regions(name, model, spec)
    exact = {node for node in regions if node.startswith(RESIZE)}
    wanted = [
        node.name
        for node in model.graph.node
        if node.op_type in MULTIPLICATIONS and recipe.regions[regions[node.name]] == INT8 and node.name not in exact
    ]
    if wanted and quantize is not None:
        model = quantize(name, model, wanted)
    done = quantized_nodes(model)
    beyond = sorted(done - set(wanted))
    if beyond:
        raise ExportError(f"graph '{name}' was quantized at {', '.join(beyond)}, which no int8 region holds")
    half = {node for node, region in regions.items() if recipe.float_type(region) == FP16} - exact
    # A quantizer names nodes of its own after the one that they belong to: "NAME:what".
    result = convert_to_float16(model, lambda node: node.split(":")[0] in half, signature)
    problems = static_problems(result)
    if problems:
        raise ExportError(f"graph '{name}' is not static: {'; '.join(problems[:5])}; this is a defect of the exporter")
    return result, [node for node in wanted if node not in done]


def quantized_nodes(model: onnx.ModelProto) -> set[str]:
    """Nodes that read dequantized tensors: multiplications with both factors so, and any other node with even one."""
    dequantized = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    found = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        factors = node.input[:2] if node.op_type in MULTIPLICATIONS else node.input
        read = [name in dequantized for name in factors]
        if all(read) if node.op_type in MULTIPLICATIONS else any(read):
            found.add(node.name)
    return found


def typed_signature(signature: GraphSignature, recipe: Recipe) -> GraphSignature:
    """The signature with float16 for tensors that pass between graphs, where their region is half precision."""
    half = {name for region, names in BORDERS.items() if recipe.float_type(region) == FP16 for name in names}

    def tensors(rows: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(t, dtype="float16") if t.name in half else t for t in rows)

    return GraphSignature(tensors(signature.inputs), tensors(signature.outputs))
