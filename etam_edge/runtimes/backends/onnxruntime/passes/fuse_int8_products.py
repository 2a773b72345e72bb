"""Products of two dequantized int8 factors, with the bias after them, become MatMulIntegerToFloat.

ONNX Runtime finds such a product by itself. But it leaves the bias to a pass of its own or, next to the product, turns
both into a Gemm in float; it transposes keys in float; and on x86 it always computes uint8 by int8, which is wrong on
CPUs whose kernel saturates (`int8_forms`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from etam_edge.errors import BundleError
from etam_edge.runtimes.backends.onnxruntime.int8_forms import Int8Form
from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, OnnxFile, attribute_of, copy_node, make_node
from etam_edge.runtimes.backends.onnxruntime.passes.graph_links import GraphLinks, Replacements

FLOAT16 = 10
"""float16 as ONNX counts types."""


def fuse_int8_products(file: OnnxFile, *, form: Int8Form) -> int:
    """Fuse every MatMul of two symmetric int8 factors, with the bias after it.

    Args:
        file: with Q/DQ pairs as the exporter writes them.
        form: of the products. FLOAT fuses none.

    Returns:
        the number of products fused.
    """
    if not form.integer:
        return 0
    graph, replacements = GraphLinks(file.nodes), Replacements()
    factors = _Factors(file, graph, form)
    count = 0
    for node in file.nodes:
        found = _product(file, graph, node) if node.op_type == "MatMul" else None
        if found is None:
            continue
        new: list[Any] = []
        first, scale = factors.first(found.quantize, new)
        inputs = [
            first,
            factors.second(found.right, new),
            factors.single(scale),
            factors.single(found.right.input[1]),
            factors.zero_point(form.first, form.first_zero),
            factors.zero_point(form.second, form.second_zero),
        ]
        outputs = node.output
        bias = _bias(file, graph, node)
        if bias is not None:
            vector, add = bias
            inputs.append(vector)
            outputs = add.output
            replacements.replace(add, [])
        if file.values(found.right.input[1]).dtype == np.float16:
            # Scales in float16: the operator has only a float32 result.
            single = [f"{outputs[0]}:fp32"]
            new.append(make_node("MatMulIntegerToFloat", inputs, single, f"{node.name}:int8", domain=DOMAIN))
            new.append(make_node("Cast", single, outputs, f"{node.name}:fp16", {"to": FLOAT16}))
        else:
            new.append(make_node("MatMulIntegerToFloat", inputs, outputs, f"{node.name}:int8", domain=DOMAIN))
        replacements.replace(node, new)
        count += 1
    replacements.apply(file)
    return count


class _Product(NamedTuple):
    """The nodes in front of a quantized MatMul.

    Attributes:
        quantize: QuantizeLinear of the first factor.
        right: DequantizeLinear of the second factor.
    """

    quantize: Any
    right: Any


def _product(file: OnnxFile, graph: GraphLinks, node: Any) -> _Product | None:
    left, right = (graph.writer(name, "DequantizeLinear") for name in node.input)
    if left is None or right is None or not (_is_symmetric(file, left) and _is_symmetric(file, right)):
        return None
    quantize = graph.writer(left.input[0], "QuantizeLinear")
    constant = right.input[0] in file.constants
    if quantize is None or not (constant or graph.writer(right.input[0], "QuantizeLinear") is not None):
        return None
    scale = file.values(right.input[1])
    if scale.shape != () and not (
        constant and scale.shape == file.values(right.input[0]).shape[-1:] and attribute_of(right, "axis") == 1
    ):
        return None
    return _Product(quantize, right)


def _is_symmetric(file: OnnxFile, node: Any) -> bool:
    """Whether a DequantizeLinear reads int8 with a zero point of 0 and a constant scale."""
    if len(node.input) < 3 or not {*node.input[1:3]} <= file.constants.keys():
        return False
    zero = file.values(node.input[2])
    return zero.dtype == np.int8 and not zero.any()


class _Factors:
    """Factors in the form's types. A tensor that several products read is quantized once."""

    def __init__(self, file: OnnxFile, graph: GraphLinks, form: Int8Form) -> None:
        self._file, self._graph, self._form = file, graph, form
        self._first: dict[tuple[str, str], tuple[str, str]] = {}
        self._second: dict[str, str] = {}

    def first(self, quantize: Any, new: list[Any]) -> tuple[str, str]:
        """Names of the first factor and of its scale; nodes that compute them are appended to `new`."""
        source, scale = quantize.input[:2]
        if self._form.first == "int8":
            return quantize.output[0], scale
        if (source, scale) not in self._first:
            self._first[source, scale] = self._quantize_first(source, scale, quantize.output[0], new)
        return self._first[source, scale]

    def _quantize_first(self, source: str, scale: str, name: str, new: list[Any]) -> tuple[str, str]:
        zero, output = self.zero_point(self._form.first, self._form.first_zero), f"{name}:{self._form.name}"
        if self._form.first_bits == 8:
            new.append(make_node("QuantizeLinear", [source, scale, zero], [output], output))
            return output, scale
        # uint8 clips at the lower end of the range by itself, but not at the upper one.
        doubled = self._file.add_constant(f"{scale}:doubled", 2 * self._file.values(scale))
        largest = self._file.add_constant("uint7:largest", np.array(127, dtype=np.uint8))
        new.append(make_node("QuantizeLinear", [source, doubled, zero], [f"{output}:wide"], f"{output}:wide"))
        new.append(make_node("Min", [f"{output}:wide", largest], [output], output))
        return output, doubled

    def second(self, dequantize: Any, new: list[Any]) -> str:
        """Name of the second factor; nodes that compute it are appended to `new`."""
        name = dequantize.input[0]
        if name not in self._second:
            constant = name in self._file.constants
            self._second[name] = self._second_constant(name) if constant else self._second_activation(name, new)
        return self._second[name]

    def _second_constant(self, name: str) -> str:
        if self._form.second == "int8":
            return name
        values = self._file.values(name).astype(np.int16) + self._form.second_zero
        return self._file.add_constant(f"{name}:uint8", values.astype(np.uint8))

    def _second_activation(self, name: str, new: list[Any]) -> str:
        """A transpose before the quantization is moved behind it: bytes move faster than floats."""
        quantize = self._graph.writer(name, "QuantizeLinear")
        if quantize is None:
            raise BundleError(f"factor '{name}' of an int8 product is not quantized; export the bundle again")
        source, scale, zero = quantize.input
        zero = self.zero_point(self._form.second, self._form.second_zero) or zero
        transpose = self._graph.writer(source, "Transpose")
        if transpose is None or self._graph.only_reader(source) is None:
            if self._form.second == "int8":
                return name
            new.append(make_node("QuantizeLinear", [source, scale, zero], [f"{name}:uint8"], f"{name}:uint8"))
            return f"{name}:uint8"
        quantized, transposed = f"{name}:quantized", f"{name}:transposed"
        new.append(make_node("QuantizeLinear", [transpose.input[0], scale, zero], [quantized], quantized))
        new.append(copy_node(transpose, [quantized], [transposed], transposed))
        return transposed

    def single(self, scale: str) -> str:
        """Name of a scale in float32."""
        values = self._file.values(scale)
        if values.dtype == np.float32:
            return scale
        return self._file.add_constant(f"{scale}:fp32", values.astype(np.float32))

    def zero_point(self, dtype: str, value: int) -> str:
        """Name of a zero point; "" for 0, which is the default."""
        return self._file.add_constant(f"{dtype}:zero {value}", np.array(value, dtype=dtype)) if value else ""


def _bias(file: OnnxFile, graph: GraphLinks, node: Any) -> tuple[str, Any] | None:
    """The constant vector that is added to a product that nothing else reads, and the Add."""
    add = graph.only_reader(node.output[0], "Add")
    if add is None:
        return None
    name = add.input[1] if add.input[0] == node.output[0] else add.input[0]
    weight = graph.writer(node.input[1], "DequantizeLinear")
    if name not in file.constants or weight is None or weight.input[0] not in file.constants:
        return None
    return (name, add) if file.values(name).shape == file.values(weight.input[0]).shape[-1:] else None
