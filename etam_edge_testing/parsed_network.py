"""The network that TensorRT's parser makes of an ONNX graph, as far as the package reads and changes it.

In a weakly typed network, as TensorRT 8.6 makes it, every float tensor reports FLOAT until it is given another type,
constants included (their weights keep their own); only inputs, casts and Q/DQ pairs report the graph's types.
"""

from __future__ import annotations

from enum import Enum, auto
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import numpy_helper

from etam_edge_testing.simulated import DataType

_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.BOOL: DataType.BOOL,
}


class LayerType(Enum):
    CAST = auto()
    CONSTANT = auto()
    QUANTIZE = auto()
    DEQUANTIZE = auto()
    OTHER = auto()


_KINDS = {"Cast": LayerType.CAST, "QuantizeLinear": LayerType.QUANTIZE, "DequantizeLinear": LayerType.DEQUANTIZE}


class Tensor:
    """An `ITensor`."""

    def __init__(self, name: str, dtype: DataType) -> None:
        self.name, self.dtype = name, dtype


class Layer:
    """An `ILayer` that records its `precision` and its output types by place."""

    def __init__(self, name: str, kind: LayerType, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision: DataType | None = None
        self.outputs: dict[int, DataType] = {}

    def get_input(self, index: int) -> Tensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def set_output_type(self, index: int, kind: DataType) -> None:
        self.outputs[index] = kind


class ConstantLayer(Layer):
    """An `IConstantLayer`: what `get_layer` answers has to be cast to it before its weights can be read."""

    stored: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        return self.stored


class Network:
    """An `INetworkDefinition`.

    Args:
        model: with the types of all tensors, or from which they can be inferred.
        weakly_typed: whether it is one of TensorRT 8.6.
    """

    def __init__(self, model: onnx.ModelProto, weakly_typed: bool = True) -> None:
        self.types = types = types_of(model)
        weak = {name: DataType.FLOAT if kind == DataType.HALF else kind for name, kind in types.items()}
        reported = weak if weakly_typed else types
        inputs = {value.name: Tensor(value.name, types[value.name]) for value in model.graph.input}
        self._tensors = dict(inputs)
        self.layers: list[Layer] = []
        for constant in model.graph.initializer:
            self._tensors[constant.name] = Tensor(constant.name, reported[constant.name])
            layer = Layer(constant.name, LayerType.CONSTANT, [], [self._tensors[constant.name]])
            layer.stored = numpy_helper.to_array(constant)  # type: ignore[attr-defined]
            self.layers.append(layer)
        for node in model.graph.node:
            kind = _KINDS.get(node.op_type, LayerType.OTHER)
            known = reported if kind is LayerType.OTHER else types
            made = [Tensor(name, known[name]) for name in node.output]
            self._tensors |= {tensor.name: tensor for tensor in made}
            read = [self._tensors[name] if name else None for name in node.input]
            self.layers.append(Layer(node.name, kind, read, made))
        self._inputs = list(inputs.values())
        self.num_inputs, self.num_layers = len(self._inputs), len(self.layers)

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


def types_of(model: onnx.ModelProto) -> dict[str, DataType]:
    """The type of every tensor, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: _TYPES[kind] for name, kind in found.items()}


TENSORRT_8_6 = SimpleNamespace(
    __name__="tensorrt",
    __version__="8.6.1",
    IConstantLayer=ConstantLayer,
    LayerType=LayerType,
    DataType=DataType,
    BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", OBEY_PRECISION_CONSTRAINTS="OBEY"),
)
"""As much of the module `tensorrt` as setting the types of a weakly typed network needs."""
