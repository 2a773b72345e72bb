"""float16 in the graph: every float tensor of an fp16 region is float16, with casts where regions of two types meet.

In an fp16 region these stay float32:

- LayerNormalization and Softmax: their sums need the range and the precision of float32 (NVIDIA/TensorRT#4111, #4493).
- QuantizeLinear, DequantizeLinear and the multiplication between them: opset 17, the last opset that TensorRT 8.6
  parses, defines the two in float32 only. Compilers fuse the casts around an int8 multiplication, but write its result
  as float32. From opset 19 on, the MatMul nodes with two dequantized factors and their Q/DQ pairs are float16 as well:
  their scales have to be prepared (`HalfScales`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.bundle import GraphSignature, TensorSpec
from etam_edge.errors import ExportError
from etam_edge.exporters.passes.base import PassResult
from etam_edge.exporters.passes.raise_opset import opset_of
from etam_edge.recipe import MAX_FLOAT16

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_SCALES_OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear have float16 scales."""
FLOAT32_OPERATORS = frozenset({"LayerNormalization", "Softmax", "QuantizeLinear", "DequantizeLinear"})
"""Operators that compute in float32 in every region."""
FLOAT32_INPUTS = {"Resize": (1, 2), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
"""Inputs that ONNX defines as float32 (regions of interest and scales), by their place."""


class ConvertToFloat16:
    """Convert the fp16 part of a float32 graph, which may contain Q/DQ pairs, to float16.

    Args:
        is_half: whether a node, given by name, computes in float16.
        signature: types that the graph's inputs and outputs shall have.

    Raises:
        ExportError: a constant does not fit float16, or the result is not a valid graph.
    """

    def __init__(self, is_half: Callable[[str], bool], signature: GraphSignature) -> None:
        self.is_half = is_half
        self.signature = signature

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        conversion = _Conversion(model, self.is_half, self.signature)
        result = conversion.run()
        return PassResult(result, True) if conversion.changed else PassResult(model, False)


def convert_to_float16(
    model: onnx.ModelProto, is_half: Callable[[str], bool], signature: GraphSignature
) -> onnx.ModelProto:
    """The graph with float16 where `is_half` asks for it. Arguments and errors as of `ConvertToFloat16`."""
    return ConvertToFloat16(is_half, signature)(model).model


class _Conversion:
    """The conversion of one graph, node by node in topological order.

    A tensor has the type of the node that writes it (`types`). When a node of another type reads it, a Cast is added
    right before that reader; later readers of that type reuse it (`copies`). Constants are not cast: a float16 copy of
    the constant is stored, once (`constants_used`).

    A cast tensor "x" is named "x:fp16" or "x:fp32", and its Cast "x:fp16/Cast".
    """

    def __init__(self, model: onnx.ModelProto, is_half: Callable[[str], bool], signature: GraphSignature) -> None:
        self.source = model
        self.is_half = is_half
        self.signature = signature
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.float_tensors = self._find_float_tensors()
        self.half_quantized = _half_quantized(model, is_half)
        self.dequantized = {
            output
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.name not in self.half_quantized
            for output in node.output
        }
        self.types: dict[str, int] = {}
        """FLOAT or HALF by tensor, for the tensors written so far."""
        self.copies: dict[tuple[str, int], str] = {}
        """Name of the copy of a tensor in a type."""
        self.constants_used: dict[str, TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.changed = False

    def run(self) -> onnx.ModelProto:
        """The converted graph.

        Raises:
            ExportError: a constant does not fit float16, or the result is not a valid graph.
        """
        inputs = self._declare(self.source.graph.input, self.signature.inputs)
        outputs = self._declare(self.source.graph.output, self.signature.outputs)
        self.types |= {value.name: value.type.tensor_type.elem_type for value in inputs}
        promised = {value.name: value.type.tensor_type.elem_type for value in outputs}
        for node in self.source.graph.node:
            self._convert(node, promised)
        constants = list(self.constants_used.values())
        graph = helper.make_graph(self.nodes, self.source.graph.name, inputs, outputs, constants)
        result = helper.make_model(
            graph, opset_imports=self.source.opset_import, ir_version=self.source.ir_version, producer_name="etam-edge"
        )
        try:
            onnx.checker.check_model(result, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(
                f"the graph is not valid after conversion to float16 ({error}); this is a defect of the exporter"
            ) from error
        return result

    def _find_float_tensors(self) -> set[str]:
        """Names of all float32 tensors of the source: the ones that may become float16."""
        inferred = onnx.shape_inference.infer_shapes(self.source, strict_mode=True, data_prop=True)
        values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        computed = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
        return computed | {name for name, tensor in self.constants.items() if tensor.data_type == FLOAT}

    def _declare(
        self, values: Iterable[onnx.ValueInfoProto], tensors: Iterable[TensorSpec]
    ) -> list[onnx.ValueInfoProto]:
        """Inputs or outputs with the types of the signature."""
        specs = {tensor.name: tensor for tensor in tensors}
        declared = []
        for value in values:
            tensor = specs[value.name]
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            self.changed |= kind != value.type.tensor_type.elem_type
            declared.append(helper.make_tensor_value_info(value.name, kind, list(tensor.shape)))
        return declared

    def _convert(self, node: onnx.NodeProto, promised: Mapping[str, int]) -> None:
        """Append a node in its type, after the casts that its inputs need.

        Args:
            promised: types of the graph's outputs by name.
        """
        kind = self._type_of(node)
        converted = onnx.NodeProto()
        converted.CopyFrom(node)
        always_float = FLOAT32_INPUTS.get(node.op_type, ()) if node.name not in self.half_quantized else ()
        for place, name in enumerate(node.input):
            if name in self.constants or name in self.float_tensors:
                converted.input[place] = self._input(name, FLOAT if place in always_float else kind)
        if node.op_type == "Cast":
            to = next(attribute for attribute in converted.attribute if attribute.name == "to")
            self.changed |= to.i == FLOAT != kind
            to.i = kind if to.i == FLOAT else to.i
        self.nodes.append(converted)
        for place, name in enumerate(node.output):
            if name not in self.float_tensors:
                continue
            self.types[name] = kind
            if promised.get(name, kind) != kind:
                # A graph output: its name belongs to the type of the signature. Other readers read the tensor itself.
                inner = f"{name}:{_suffix(kind)}"
                converted.output[place] = inner
                self.copies[name, kind] = inner
                self._append_cast(inner, name, promised[name])
                self.copies[name, promised[name]] = name

    def _type_of(self, node: onnx.NodeProto) -> int:
        """The float type that a node computes in."""
        if node.name in self.half_quantized:
            return HALF
        if node.op_type in FLOAT32_OPERATORS or self.dequantized & set(node.input):
            return FLOAT
        return HALF if self.is_half(node.name) else FLOAT

    def _input(self, name: str, kind: int) -> str:
        """Name of a tensor or constant in a type; a cast or a float16 constant is added where there is none yet."""
        if name in self.constants:
            return self._constant(self.constants[name], kind)
        known = self.copies.get((name, kind))
        if known:
            return known
        if self.types[name] == kind:
            return name
        cast = f"{name}:{_suffix(kind)}"
        self._append_cast(name, cast, kind)
        self.copies[name, kind] = cast
        return cast

    def _constant(self, tensor: TensorProto, kind: int) -> str:
        """Name of a constant in a type.

        Raises:
            ExportError: a value is beyond float16.
        """
        if tensor.data_type != FLOAT or kind == FLOAT:
            self.constants_used[tensor.name] = tensor
            return tensor.name
        name = f"{tensor.name}:fp16"
        if name not in self.constants_used:
            values = numpy_helper.to_array(tensor)
            if values.size and not np.abs(values).max() <= MAX_FLOAT16:
                raise ExportError(
                    f"the constant {tensor.name} reaches {np.abs(values).max():.3g}, beyond fp16; "
                    'keep its region in fp32 with `regions={"NAME": "fp32"}` (etam-edge inspect lists the regions)'
                )
            self.constants_used[name] = numpy_helper.from_array(values.astype(np.float16), name)
            self.changed = True
        return name

    def _append_cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind))
        self.changed = True


def _half_quantized(model: onnx.ModelProto, is_half: Callable[[str], bool]) -> set[str]:
    """Names of the Q/DQ nodes in front of the MatMul nodes that compute in float16; none before opset 19."""
    if opset_of(model) < HALF_SCALES_OPSET:
        return set()
    writers = {output: node for node in model.graph.node for output in node.output}
    found = set()
    for node in model.graph.node:
        if node.op_type != "MatMul" or not is_half(node.name):
            continue
        before = [writers[name] for name in node.input if name in writers]
        if len(before) == 2 and all(writer.op_type == "DequantizeLinear" for writer in before):
            found |= {writer.name for writer in before}
            found |= {writers[writer.input[0]].name for writer in before if writer.input[0] in writers}
    return found


def _suffix(kind: int) -> str:
    return "fp16" if kind == HALF else "fp32"
