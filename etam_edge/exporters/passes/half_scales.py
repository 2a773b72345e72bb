"""int8 MatMul with float16 scales, whose result a GPU can write as float16 without overflow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from etam_edge.exporters.passes.base import PassResult, copy_of, replace_nodes

SMALLEST = np.float32(2.0**-24)
"""The smallest positive float16 number."""


class HalfScales:
    """Prepare the Q/DQ pairs of MatMul nodes for scales in float16.

    All scales become values that float16 holds, and weights with a scale for each output channel get one scale for the
    tensor and a vector of ratios behind the product, named "NAME:ratio":

        (x_q s_x) (w_q s_w[c])  becomes  ((x_q s_x) (w_q s)) r[c],  with s = max s_w and r[c] = s_w[c] / s.

    The integers stay what they were. TensorRT gives a product with one scale the factor s_x s before it rounds the
    sums to float16; with a scale for each channel it writes the integer sums themselves, and those above 65504 are
    infinite (found in the plans that TensorRT for RTX 1.7.1 writes). Since r is at most 1, the float16 number is at
    least as large as the result, and at most the result of the channel with the widest range.

    Convolutions, and products of which a factor is not dequantized, are left as they are.

    Args:
        nodes: names of MatMul nodes with two dequantized factors.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self.nodes = frozenset(nodes)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = copy_of(model)
        constants = {tensor.name: tensor for tensor in result.graph.initializer}
        writers = {output: node for node in result.graph.node for output in node.output}
        products = [
            node
            for node in result.graph.node
            if node.name in self.nodes
            and node.op_type == "MatMul"
            and all(name in writers and writers[name].op_type == "DequantizeLinear" for name in node.input)
        ]
        if not products:
            return PassResult(model, False)
        rounded: set[str] = set()
        ratios: dict[str, np.ndarray] = {}
        for product in products:
            for name in product.input:
                dequantize = writers[name]
                scale = numpy_helper.to_array(constants[dequantize.input[1]])
                if scale.ndim:
                    ratios[dequantize.name] = _one_scale(result, constants, dequantize)
                elif dequantize.input[1] not in rounded:
                    rounded.add(dequantize.input[1])
                    constants[dequantize.input[1]].CopyFrom(
                        numpy_helper.from_array(_half_above(scale), dequantize.input[1])
                    )
        nodes: list[onnx.NodeProto] = []
        chosen = {product.name for product in products}
        for node in result.graph.node:
            nodes.append(node)
            ratio = ratios.get(writers[node.input[1]].name) if node.name in chosen else None
            if ratio is not None:
                nodes.append(_with_ratio(result, node, ratio))
        replace_nodes(result, nodes)
        return PassResult(result, True)


def _half_above(scale: np.ndarray) -> np.ndarray:
    """The smallest float16 values that are not below `scale`, as float32: nothing that was in range is cut off."""
    half = np.maximum(scale.astype(np.float16).astype(np.float32), SMALLEST).astype(np.float16)
    above = np.where(half.astype(np.float32) < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.asarray(above.astype(np.float32))


def _one_scale(
    model: onnx.ModelProto, constants: dict[str, onnx.TensorProto], dequantize: onnx.NodeProto
) -> np.ndarray:
    """Replace the scales of the channels by one, in place, and return the ratios, float32 (channels,)."""
    scale = numpy_helper.to_array(constants[dequantize.input[1]])
    one = _half_above(scale.max())
    if f"{dequantize.input[1]}:one" not in constants:
        zero = numpy_helper.to_array(constants[dequantize.input[2]]).reshape(-1)[:1].reshape(())
        for place, values in ((1, one), (2, zero)):
            tensor = numpy_helper.from_array(np.asarray(values), f"{dequantize.input[place]}:one")
            constants[tensor.name] = tensor
            model.graph.initializer.append(tensor)
    for place in (1, 2):
        dequantize.input[place] = f"{dequantize.input[place]}:one"
    # One scale has no axis.
    kept = [attribute for attribute in dequantize.attribute if attribute.name != "axis"]
    del dequantize.attribute[:]
    dequantize.attribute.extend(kept)
    return (scale / one).astype(np.float32)


def _with_ratio(model: onnx.ModelProto, product: onnx.NodeProto, ratio: np.ndarray) -> onnx.NodeProto:
    """Rename the output of a product, in place, and return the Mul that writes it."""
    name = f"{product.name}:ratio"
    model.graph.initializer.append(numpy_helper.from_array(ratio, name))
    output, inner = product.output[0], f"{product.output[0]}:scaled"
    product.output[0] = inner
    return helper.make_node("Mul", [inner, name], [output], name=name)
