"""How much a frame multiplies: floating-point operations of the products in the graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from etam_edge.bundle import Bundle
from etam_edge.exporters.passes.base import fix_objects

FRAME_GRAPHS = ("encode", "track")
"""What a tracked frame runs: the first once, the second for every object."""


def frame_operations(bundle: Bundle) -> dict[str, int]:
    """Floating-point operations of the products of each graph of a tracked frame, for one object.

    All memory slots count.
    """
    return {name: sum(operations(onnx.load(bundle.graph_path(name))).values()) for name in FRAME_GRAPHS}


def operations(model: onnx.ModelProto) -> dict[str, int]:
    """Floating-point operations, two for a multiply-add, by the name of every node that multiplies.

    Products alone are counted: MatMul, Gemm, Conv and ConvTranspose. The model is changed: its objects become one.
    """
    fix_objects(model, 1)
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
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "Conv":
        return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    return 0
