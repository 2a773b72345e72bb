"""What TensorRT 8.6 is told, layer by layer: on stand-ins, since it wants a GPU for everything.

The network stands for what the parser makes of a graph: every tensor of floats is float32 until somebody says
otherwise, but for inputs, constants, casts and Q/DQ pairs, whose types the graph fixes.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.spec import Pooling
from etam_edge_testing.made_up_ranges import made_up_ranges

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from etam_edge.calibration.qdq import QdqQuantizer  # noqa: E402
from etam_edge.exporters.precision import derive_bundle, quantized_nodes  # noqa: E402
from etam_edge.exporters.tensorrt.builder import obey_types  # noqa: E402


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


TRT = SimpleNamespace(
    LayerType=Kind,
    DataType=Type,
    BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", OBEY_PRECISION_CONSTRAINTS="OBEY"),
)
KINDS = {"Cast": Kind.CAST, "QuantizeLinear": Kind.QUANTIZE, "DequantizeLinear": Kind.DEQUANTIZE}


class Tensor:
    def __init__(self, name: str, dtype: Type) -> None:
        self.name, self.dtype = name, dtype


class Layer:
    """What was said of it: `precision`, and `outputs` by their place."""

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


class Network:
    def __init__(self, model: onnx.ModelProto, types: dict[str, Type]) -> None:
        weak = {name: Type.FLOAT if kind == Type.HALF else kind for name, kind in types.items()}
        inputs = {value.name: Tensor(value.name, types[value.name]) for value in model.graph.input}
        self._tensors = dict(inputs)
        self.layers = []
        for constant in model.graph.initializer:
            self._tensors[constant.name] = Tensor(constant.name, types[constant.name])
            self.layers.append(Layer(constant.name, Kind.CONSTANT, [], [self._tensors[constant.name]]))
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
