"""TF32 products on a processor that has none: their float32 factors are rounded as a GPU's matrix units round them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.exporters.passes.base import PassResult, copy_of, replace_nodes

SIGNIFICANT_BITS = 11
"""Of TF32, the leading one included: as many as float16 has. The exponent is that of float32."""
FLOAT32_BITS = 24
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})


class RoundToTf32:
    """Round both float32 factors of the named products to TF32. Sums stay float32, as in matrix units.

    A number is rounded by float32 arithmetic: with c = x (2^13 + 1), c - (c - x) has the leading 11 bits of x, rounded
    to nearest. (Dekker, A floating-point technique for extending the available precision, 1971; also called Veltkamp's
    splitting.)

    Args:
        nodes: names of products; nodes of other operators are left alone.
        bits: significant bits that are kept. One fewer than TF32 has bounds the error of a GPU that cuts bits off.
    """

    def __init__(self, nodes: Iterable[str], bits: int = SIGNIFICANT_BITS) -> None:
        self.nodes = frozenset(nodes)
        self.factor = np.float32(2.0 ** (FLOAT32_BITS - bits) + 1.0)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = copy_of(model)
        constants = {tensor.name: tensor for tensor in result.graph.initializer}
        factor = "tf32:factor"
        rounded: dict[str, str] = {}
        nodes: list[onnx.NodeProto] = []
        for node in result.graph.node:
            if node.op_type in PRODUCTS and node.name in self.nodes:
                for place, name in enumerate(node.input[:2]):
                    if name not in rounded:
                        rounded[name] = f"{name}:tf32"
                        if name in constants:
                            self._round_constant(result, constants[name], rounded[name])
                        else:
                            nodes += _rounding(name, rounded[name], factor)
                    node.input[place] = rounded[name]
            nodes.append(node)
        if not rounded:
            return PassResult(model, False)
        result.graph.initializer.append(numpy_helper.from_array(np.array(self.factor), factor))
        replace_nodes(result, nodes)
        return PassResult(result, True)

    def _round_constant(self, model: onnx.ModelProto, tensor: TensorProto, name: str) -> None:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        scaled = values * self.factor
        model.graph.initializer.append(numpy_helper.from_array(scaled - (scaled - values), name))


def _rounding(source: str, target: str, factor: str) -> list[onnx.NodeProto]:
    """Nodes that round a float32 tensor."""
    scaled, rest = f"{target}:scaled", f"{target}:rest"
    return [
        helper.make_node("Mul", [source, factor], [scaled], name=scaled),
        helper.make_node("Sub", [scaled, source], [rest], name=rest),
        helper.make_node("Sub", [scaled, rest], [target], name=target),
    ]
