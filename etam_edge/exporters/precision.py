"""Bundles of other precisions, derived from an fp32 bundle: Q/DQ pairs and float16 as the recipe says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import onnx

from etam_edge.bundle import MANIFEST, Bundle, Calibration, GraphEntry, GraphSignature, TensorSpec, sha256_of, writing
from etam_edge.bundle.signatures import PASSED
from etam_edge.errors import ExportError, InputError
from etam_edge.exporters.passes.base import run_passes
from etam_edge.exporters.passes.check_static import CheckStatic
from etam_edge.exporters.passes.convert_to_float16 import HALF_SCALES_OPSET, ConvertToFloat16
from etam_edge.exporters.passes.half_scales import HalfScales
from etam_edge.exporters.passes.raise_opset import RaiseOpset, opset_of
from etam_edge.exporters.regions import RESIZE, node_regions
from etam_edge.recipe import FP16, FP32, INT8, MULTIPLICATIONS, Recipe
from etam_edge.spec import ModelSpec

SHARED_TENSORS = dict(zip(("neck", "memory_scores", "memory_values"), PASSED, strict=True))
"""Tensors that one graph writes and another reads, by the region whose float type they have. All other inputs and
outputs are read or written by the host, and are float32."""


class Quantizer(Protocol):
    """Inserts Q/DQ pairs around multiplications."""

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
    """Write a bundle of another precision.

    Args:
        source: an fp32 bundle.
        output: directory of the new bundle; it appears when all is written.
        recipe: a precision for every region.
        precision: one word for the manifest.
        calibration: summary for the manifest. Multiplications of int8 regions that stayed float are added as
            `left_float`.
        quantize: required if the recipe has int8 regions.
        overwrite: replace an existing bundle.
        progress: called with the name of each graph before it is converted.

    Raises:
        InputError: the source is not fp32, or the output exists or cannot be written.
        ExportError: a graph cannot be converted.
    """
    manifest = source.manifest
    if manifest.recipe.precision != FP32:
        raise InputError(f"{source.path} is {manifest.precision}; other precisions are made from an fp32 bundle")
    if recipe.int8_regions and quantize is None:
        raise InputError(f"int8 in {', '.join(recipe.int8_regions)} needs calibration; add `calibration=CLIPS`")
    left_float: list[str] = []
    with writing(output, overwrite) as draft:
        (draft / "graphs").mkdir()
        entries = {}
        for name, entry in manifest.graphs.items():
            progress(name)
            signature = convert_signature(entry.signature, recipe)
            model, left = convert_graph(
                name, onnx.load(source.graph_path(name)), signature, manifest.model, recipe, quantize
            )
            opset = opset_of(model)
            left_float += [f"{name}:{node}" for node in left]
            path = draft / entry.file
            onnx.save(model, path)
            entries[name] = GraphEntry(entry.file, sha256_of(path), opset, signature)
        if recipe.int8_regions:
            calibration = {**calibration, "left_float": left_float}
        derived = dataclasses.replace(
            manifest,
            precision=precision,
            recipe=recipe,
            graphs=entries,
            calibration=Calibration.from_dict(calibration) if calibration else None,
            accuracy=None,
            answer=None,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        (draft / MANIFEST).write_text(derived.to_json(), encoding="utf-8")
    return Bundle.load(output)


def convert_graph(
    name: str,
    model: onnx.ModelProto,
    signature: GraphSignature,
    spec: ModelSpec,
    recipe: Recipe,
    quantize: Quantizer | None,
) -> tuple[onnx.ModelProto, list[str]]:
    """Convert one graph to the recipe's precisions.

    Args:
        name: of the graph.
        model: float32 throughout; not modified.
        signature: that the converted graph shall have.
        spec: of the model.
        recipe: a precision for every region.
        quantize: required if the recipe has int8 regions.

    Returns:
        the converted graph, and the names of multiplications of int8 regions that stayed float.

    Raises:
        ExportError: a node belongs to no region, a quantizer changed a node outside the int8 regions, or the result is
            not static.
    """
    regions = node_regions(name, model, spec)
    # Camera frames are resized in fp32 in every precision: see RESIZE.
    always_float = {node for node in regions if node.startswith(RESIZE)}
    wanted = [
        node.name
        for node in model.graph.node
        if node.op_type in MULTIPLICATIONS
        and recipe.regions[regions[node.name]] == INT8
        and node.name not in always_float
    ]
    if wanted and quantize is not None:
        model = quantize(name, model, wanted)
        if recipe.scales == FP16:
            model = run_passes(model, (HalfScales(wanted), RaiseOpset(HALF_SCALES_OPSET))).model
    quantized = quantized_nodes(model)
    unwanted = sorted(quantized - set(wanted))
    if unwanted:
        raise ExportError(f"graph '{name}': the quantizer changed {', '.join(unwanted)}, outside the int8 regions")
    half = {node for node, region in regions.items() if recipe.float_type(region) == FP16} - always_float
    # Quantizers and passes name their nodes after the node that they belong to: "NAME:what".
    passes = (ConvertToFloat16(lambda node: node.split(":")[0] in half, signature), CheckStatic(name))
    return run_passes(model, passes).model, [node for node in wanted if node not in quantized]


def quantized_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that read dequantized tensors.

    A multiplication counts if both of its factors are dequantized, any other node if one of its inputs is.
    """
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


def convert_signature(signature: GraphSignature, recipe: Recipe) -> GraphSignature:
    """The signature with float16 for the tensors that pass between graphs, where their region is fp16."""
    half = {name for region, names in SHARED_TENSORS.items() if recipe.float_type(region) == FP16 for name in names}

    def tensors(rows: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(t, dtype="float16") if t.name in half else t for t in rows)

    return GraphSignature(tensors(signature.inputs), tensors(signature.outputs))
