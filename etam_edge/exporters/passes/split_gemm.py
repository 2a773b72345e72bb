"""Gemm nodes as MatMul and Add."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from etam_edge.exporters.passes.base import PassResult, attributes_of, copy_of, replace_nodes


class SplitGemm:
    """Replace linear Gemm nodes (x W + b with a constant W) by a MatMul of the same name and an Add.

    Runtimes compute a Gemm in int8 only if its bias is quantized too, and biases stay float here. The Add is named
    after the node, "NAME:bias", so that it belongs to the same region.

    Args:
        nodes: names of the nodes to replace; those of other operators are left alone.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self.nodes = frozenset(nodes)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = copy_of(model)
        constants = {tensor.name: tensor for tensor in result.graph.initializer}
        rewritten: list[onnx.NodeProto] = []
        changed = False
        for node in result.graph.node:
            if node.op_type != "Gemm" or node.name not in self.nodes or not _is_linear(node, constants):
                rewritten.append(node)
                continue
            changed = True
            factors = [node.input[0], _matmul_weight(result, constants, node)]
            output = node.output[0]
            has_bias = len(node.input) > 2
            product = f"{output}:product" if has_bias else output
            rewritten.append(helper.make_node("MatMul", factors, [product], name=node.name))
            if has_bias:
                rewritten.append(helper.make_node("Add", [product, node.input[2]], [output], name=f"{node.name}:bias"))
        if not changed:
            return PassResult(model, False)
        replace_nodes(result, rewritten)
        return PassResult(result, True)


def _is_linear(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a Gemm is x W + b with a constant W."""
    attributes = attributes_of(node)
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    return plain and node.input[1] in constants


def _matmul_weight(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto], node: onnx.NodeProto) -> str:
    """Name of a Gemm's weight in the layout of MatMul; a transposed copy is added where the Gemm transposes it."""
    name = node.input[1]
    if not attributes_of(node).get("transB", 0):
        return name
    transposed = f"{name}:transposed"
    if transposed not in constants:
        values = np.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
        constants[transposed] = numpy_helper.from_array(values, transposed)
        model.graph.initializer.append(constants[transposed])
    return transposed
