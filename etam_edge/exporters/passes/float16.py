"""Half precision, written into the graph: every float tensor of an fp16 region is float16, with casts at the borders.

What stays float32 in an fp16 region:

- LayerNormalization and Softmax, whose sums want the range and the precision (NVIDIA/TensorRT#4111, #4493);
- QuantizeLinear and DequantizeLinear, and the multiplication between them: opset 17, the last that TensorRT 8.6 parses,
  knows them in float32 only. Compilers fuse the casts around an int8 multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.bundle import GraphSignature
from etam_edge.errors import ExportError
from etam_edge.recipe import LARGEST_HALF

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
FLOAT32_OPERATORS = frozenset({"LayerNormalization", "Softmax", "QuantizeLinear", "DequantizeLinear"})
FLOAT32_INPUTS = {"Resize": (1, 2), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
"""Inputs that are float32 in every graph, by their place: scales."""


def convert_to_float16(
    model: onnx.ModelProto, is_half: Callable[[str], bool], signature: GraphSignature
) -> onnx.ModelProto:
    """The graph with float16 where it is asked for.

    Args:
        model: float32 throughout, possibly with Q/DQ pairs.
        is_half: whether a node, given by name, computes in float16.
        signature: types that the graph's inputs and outputs shall have.

    Raises:
        ExportError: a constant does not fit float16, or the result is no valid graph.
    """
    return _Typing(model, is_half, signature).result()


class _Typing:
    def __init__(self, model: onnx.ModelProto, is_half: Callable[[str], bool], signature: GraphSignature) -> None:
        self.source = model
        self.is_half = is_half
        self.signature = signature
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        self.floats = {
            value.name
            for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
            if value.type.tensor_type.elem_type == FLOAT
        } | {name for name, tensor in self.constants.items() if tensor.data_type == FLOAT}
        self.dequantized = {
            output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output
        }
        self.types: dict[str, int] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}
        self.kept: dict[str, TensorProto] = {}

    def result(self) -> onnx.ModelProto:
        inputs = [self._declared(value, self.signature.inputs) for value in self.source.graph.input]
        outputs = [self._declared(value, self.signature.outputs) for value in self.source.graph.output]
        wanted = {value.name: value.type.tensor_type.elem_type for value in outputs}
        self.types |= {value.name: value.type.tensor_type.elem_type for value in inputs}
        for node in self.source.graph.node:
            self._add(node, wanted)
        graph = helper.make_graph(self.nodes, self.source.graph.name, inputs, outputs, list(self.kept.values()))
        made = helper.make_model(
            graph, opset_imports=self.source.opset_import, ir_version=self.source.ir_version, producer_name="etam-edge"
        )
        try:
            onnx.checker.check_model(made, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"the typed graph is not valid ({error}); this is a defect of the exporter") from error
        return made

    def _declared(self, value: onnx.ValueInfoProto, tensors: tuple) -> onnx.ValueInfoProto:
        tensor = next(tensor for tensor in tensors if tensor.name == value.name)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        return helper.make_tensor_value_info(value.name, kind, list(tensor.shape))

    def _add(self, node: onnx.NodeProto, wanted: Mapping[str, int]) -> None:
        kind = self._type_of(node)
        made = onnx.NodeProto()
        made.CopyFrom(node)
        always = FLOAT32_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if name in self.constants or name in self.floats:
                made.input[place] = self._input(name, FLOAT if place in always else kind)
        if node.op_type == "Cast":
            to = next(attribute for attribute in made.attribute if attribute.name == "to")
            to.i = kind if to.i == FLOAT else to.i
        self.nodes.append(made)
        for place, name in enumerate(node.output):
            if name not in self.floats:
                continue
            self.types[name] = kind
            if wanted.get(name, kind) != kind:
                # The output's own name belongs to the type that the signature promises; others read the tensor before.
                inner = f"{name}:{_word(kind)}"
                made.output[place] = inner
                self.made[name, kind] = inner
                self.nodes.append(_cast(inner, name, wanted[name]))
                self.made[name, wanted[name]] = name

    def _type_of(self, node: onnx.NodeProto) -> int:
        if node.op_type in FLOAT32_OPERATORS or self.dequantized & set(node.input):
            return FLOAT
        return HALF if self.is_half(node.name) else FLOAT

    def _input(self, name: str, kind: int) -> str:
        """The tensor of this name in this type."""
        if name in self.constants:
            return self._constant(self.constants[name], kind)
        known = self.made.get((name, kind))
        if known:
            return known
        if self.types[name] == kind:
            return name
        made = f"{name}:{_word(kind)}"
        self.nodes.append(_cast(name, made, kind))
        self.made[name, kind] = made
        return made

    def _constant(self, tensor: TensorProto, kind: int) -> str:
        if tensor.data_type != FLOAT or kind == FLOAT:
            self.kept[tensor.name] = tensor
            return tensor.name
        name = f"{tensor.name}:fp16"
        if name not in self.kept:
            values = numpy_helper.to_array(tensor)
            if values.size and not np.abs(values).max() <= LARGEST_HALF:
                raise ExportError(
                    f"the constant {tensor.name} reaches {np.abs(values).max():.3g}, beyond fp16; "
                    "keep its region in fp32 with --region NAME=fp32 (etam-edge inspect lists the regions)"
                )
            self.kept[name] = numpy_helper.from_array(values.astype(np.float16), name)
        return name


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)


def _word(kind: int) -> str:
    return "fp16" if kind == HALF else "fp32"
