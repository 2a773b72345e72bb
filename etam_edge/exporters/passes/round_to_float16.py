"""fp16 arithmetic on a processor that has none.

ONNX Runtime computes fp16 regions in fp32 on such a processor and rounds only where a region ends. Accuracy measured
that way is too good: 1000 * 1000 does not overflow, and a track survives that a GPU would lose. `round_to_float16`
makes the same graph round to float16 after every operation. Sums inside a multiplication stay fp32, as in tensor cores.

int8 products with float16 scales are exact up to their result, as on a GPU: integers times scale, rounded to float16.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.exporters.passes.base import PassResult

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
MOVING = (
    "Reshape",
    "Transpose",
    "Slice",
    "Concat",
    "Gather",
    "Unsqueeze",
    "Squeeze",
    "Expand",
    "Where",
    "Pad",
    "Split",
)
EXACT_OPERATORS = frozenset({*MOVING, "DequantizeLinear"})
"""Operators that need no rounding: they only move values, or belong to an int8 product."""


def round_to_float16(model: onnx.ModelProto) -> PassResult:
    """Replace every float16 tensor inside a graph by a float32 tensor that holds only float16 values.

    Inputs and outputs keep their names and types.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == HALF}
    if not halves:
        return PassResult(model, False)
    constants = [
        tensor
        if tensor.data_type != HALF
        else numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        for tensor in model.graph.initializer
    ]
    # The float32 tensors that stand for float16 inputs and outputs inside the graph.
    inside = {value.name: f"{value.name}:inside" for value in (*model.graph.input, *model.graph.output)}
    inside = {name: inner for name, inner in inside.items() if name in halves}
    nodes = [
        helper.make_node("Cast", [value.name], [inside[value.name]], to=FLOAT)
        for value in model.graph.input
        if value.name in inside
    ]
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inside.get(name, name) for name in node.input]
        copy.output[:] = [inside.get(name, name) for name in node.output]
        nodes.append(copy)
        casts_to_half = node.op_type == "Cast" and copy.attribute[0].i == HALF
        if casts_to_half or (node.op_type not in EXACT_OPERATORS and node.op_type != "Cast"):
            for place, name in enumerate(node.output):
                if name in halves:
                    nodes += _rounding(copy, place, already_half=casts_to_half)
    nodes += [
        helper.make_node("Cast", [inside[value.name]], [value.name], to=HALF)
        for value in model.graph.output
        if value.name in inside
    ]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, constants)
    result = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(result, full_check=True)
    return PassResult(result, True)


def _rounding(node: onnx.NodeProto, place: int, already_half: bool) -> list[onnx.NodeProto]:
    """Casts to float16 and back behind an output of a node. The result of the casts takes over the output's name."""
    name = node.output[place]
    half = f"{name}:half"
    node.output[place] = half if already_half else f"{name}:exact"
    back = helper.make_node("Cast", [half], [name], to=FLOAT)
    return [back] if already_half else [helper.make_node("Cast", [node.output[place]], [half], to=HALF), back]
