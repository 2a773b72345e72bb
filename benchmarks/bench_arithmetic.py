"""How much a frame has to multiply: floating-point operations of the graphs, and what that takes at a GPU's limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx

from benchmarks.settings import Part, Settings
from benchmarks.tables import table
from etam_edge.bundle import OBJECTS
from etam_edge.recipe import FP32

GRAPHS = ("encode", "track")
LIMITS = {"A100, fp16": 312.0}
"""TFLOPS of dense products by the maker's data sheet."""


def run(settings: Settings) -> Part:
    """One object, all slots of memory read. Counts products alone: MatMul, Gemm, Conv and ConvTranspose.

    Raises:
        EtamError: a bundle cannot be made.
    """
    results: dict[str, Any] = {}
    rows = []
    for name in settings.models:
        bundle = settings.bundles.get(name, FP32)
        counts = {graph: sum(operations(onnx.load(bundle / "graphs" / f"{graph}.onnx")).values()) for graph in GRAPHS}
        whole = sum(counts.values())
        results[name] = counts
        limits = [f"{whole / 1e9 / limit:.2f}" for limit in LIMITS.values()]
        rows.append([name, *(f"{count / 1e9:.1f}" for count in counts.values()), f"{whole / 1e9:.1f}", *limits])
    header = ["model", *(f"`{graph}`, GFLOP" for graph in GRAPHS), "a frame", *(f"ms on {gpu}" for gpu in LIMITS)]
    return Part("Arithmetic of a frame", results, [table("one object, products alone", header, rows)])


def operations(model: onnx.ModelProto) -> dict[str, int]:
    """Floating-point operations, two for a multiply-add, by the name of every node that multiplies."""
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == OBJECTS:
                size.dim_value = 1
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    found = {node.name: _of_node(node, shapes) for node in inferred.graph.node}
    return {name: count for name, count in found.items() if count}


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type == "MatMul":
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else 1]
    if node.op_type == "Conv":
        return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    return 0
