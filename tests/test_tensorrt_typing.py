"""What TensorRT 8.6 is told, layer by layer: on stand-ins, since it wants a GPU for everything.

The stand-in network is what the parser of 8.6 makes of a graph: every float tensor reports FLOAT until it is given
another type, constants included (their weights keep their own); only inputs, casts and Q/DQ pairs report the graph's.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.spec import Pooling
from etam_edge_testing.made_up_ranges import made_up_ranges

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import helper, numpy_helper  # noqa: E402

from etam_edge.calibration.qdq import QdqQuantizer  # noqa: E402
from etam_edge.exporters.precision import derive_bundle, quantized_nodes  # noqa: E402
from etam_edge.exporters.tensorrt.weak_typing import obey_types  # noqa: E402


class Kind(Enum):
    CAST = auto()
    CONSTANT = auto()
    QUANTIZE = auto()
    DEQUANTIZE = auto()
    OTHER = auto()


class Type(Enum):
    FLOAT = onnx.TensorProto.FLOAT
    HALF = onnx.TensorProto.FLOAT16
    INT8 = onnx.TensorProto.INT8
    OTHER = -1


class Tensor:
    def __init__(self, name: str, dtype: Type) -> None:
        self.name, self.dtype = name, dtype


class Layer:
    """An `ILayer` that records its `precision` and its output types by place."""

    def __init__(self, name: str, kind: Kind, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision: Type | None = None
        self.outputs: dict[int, Type] = {}

    def get_input(self, index: int) -> Tensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def set_output_type(self, index: int, kind: Type) -> None:
        self.outputs[index] = kind


class ConstantLayer(Layer):
    """An `IConstantLayer`: what `get_layer` answers has to be cast to it before its weights can be read."""

    stored: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        return self.stored


TRT = SimpleNamespace(
    IConstantLayer=ConstantLayer,
    LayerType=Kind,
    DataType=Type,
    BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", OBEY_PRECISION_CONSTRAINTS="OBEY"),
)
KINDS = {"Cast": Kind.CAST, "QuantizeLinear": Kind.QUANTIZE, "DequantizeLinear": Kind.DEQUANTIZE}


class Network:
    def __init__(self, model: onnx.ModelProto, types: dict[str, Type]) -> None:
        weak = {name: Type.FLOAT if kind == Type.HALF else kind for name, kind in types.items()}
        inputs = {value.name: Tensor(value.name, types[value.name]) for value in model.graph.input}
        self._tensors = dict(inputs)
        self.layers = []
        for constant in model.graph.initializer:
            self._tensors[constant.name] = Tensor(constant.name, weak[constant.name])
            layer = Layer(constant.name, Kind.CONSTANT, [], [self._tensors[constant.name]])
            layer.stored = numpy_helper.to_array(constant)  # type: ignore[attr-defined]
            self.layers.append(layer)
        for node in model.graph.node:
            kind = KINDS.get(node.op_type, Kind.OTHER)
            known = weak if kind is Kind.OTHER else types
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


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = set()

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)


def types_of(model: onnx.ModelProto) -> dict[str, Type]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    known = {kind.value for kind in Type}
    return {name: Type(kind) if kind in known else Type.OTHER for name, kind in found.items()}


@pytest.mark.parametrize("precision", [FP32, FP16, INT8])
def test_every_layer_is_told_what_the_graph_says(
    precision: str, small_bundle: SmallBundleMaker, tmp_path: Path
) -> None:
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    if precision != FP32:
        quantize = QdqQuantizer(made_up_ranges())
        bundle = derive_bundle(bundle, tmp_path / "b", Recipe.default(precision), precision, {}, quantize)
    told = 0
    for name in GRAPH_NAMES:
        model = onnx.load(bundle.graph_path(name))
        types, config = types_of(model), Config()
        network = Network(model, types)
        obey_types(TRT, network, config)
        int8 = quantized_nodes(model)
        for layer in network.layers:
            for place, kind in layer.outputs.items():
                assert kind == types[layer.get_output(place).name], layer.name
                told += 1
            if layer.name in int8:
                assert layer.precision is None, "told float32, it would not be int8"
                assert layer.outputs == {}
            elif layer.type is Kind.OTHER and types[layer.get_output(0).name] in (Type.FLOAT, Type.HALF):
                reads_floats = any(
                    tensor is not None and types[tensor.name] in (Type.FLOAT, Type.HALF)
                    for tensor in (layer.get_input(i) for i in range(layer.num_inputs))
                )
                assert (layer.precision is not None) == reads_floats, layer.name
        half = any(kind == Type.HALF for kind in types.values())
        assert config.flags == {"OBEY", *(["FP16"] if half else []), *(["INT8"] if int8 else [])}, name
    assert told > 100


def half_network(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Network:
    """A network that reads a float16 `x` (2, 4)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, (2, 4))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return Network(model, types_of(model))


def test_a_bias_that_comes_first_does_not_make_its_layer_float32() -> None:
    """PyTorch writes Add(bias, product), and 8.6 reports FLOAT for the half-precision bias."""
    weight, bias = np.ones((4, 4), np.float16), np.ones(4, np.float16)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Add", ["b", "p"], ["y"], name="bias"),
    ]
    network = half_network(nodes, {"w": weight, "b": bias})
    assert network.layers[1].get_output(0).dtype is Type.FLOAT, "as 8.6 reports it"
    obey_types(TRT, network, Config())
    found = {layer.name: layer.precision for layer in network.layers if layer.type is Kind.OTHER}
    assert found == {"product": Type.HALF, "bias": Type.HALF}


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, Type.HALF), (np.float32, Type.FLOAT)])
def test_a_layer_of_constants_computes_in_the_type_of_their_weights(dtype: type, kind: Type) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"], name="constants"),
        helper.make_node("Cast", ["c"], ["d"], name="cast", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Mul", ["x", "d"], ["y"], name="product"),
    ]
    network = half_network(nodes, {"a": np.ones(4, dtype), "b": np.ones(4, dtype)})
    obey_types(TRT, network, Config())
    found = {layer.name: layer.precision for layer in network.layers if layer.type is Kind.OTHER}
    assert found == {"constants": kind, "product": Type.HALF}
