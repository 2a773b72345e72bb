"""What TensorRT 8.6 is told, layer by layer: on a simulated network, since it needs a GPU for everything."""

from __future__ import annotations

from pathlib import Path

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
from etam_edge_testing.parsed_network import TENSORRT_8_6, LayerType, Network  # noqa: E402
from etam_edge_testing.simulated import DataType  # noqa: E402


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = set()

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)


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
        network, config = Network(model), Config()
        types = network.types
        obey_types(TENSORRT_8_6, network, config)
        int8 = quantized_nodes(model)
        for layer in network.layers:
            for place, kind in layer.outputs.items():
                assert kind == types[layer.get_output(place).name], layer.name
                told += 1
            if layer.name in int8:
                assert layer.precision is None, "told float32, it would not be int8"
                assert layer.outputs == {}
            elif layer.type is LayerType.OTHER and types[layer.get_output(0).name] in (DataType.FLOAT, DataType.HALF):
                reads_floats = any(
                    tensor is not None and types[tensor.name] in (DataType.FLOAT, DataType.HALF)
                    for tensor in (layer.get_input(i) for i in range(layer.num_inputs))
                )
                assert (layer.precision is not None) == reads_floats, layer.name
        half = any(kind == DataType.HALF for kind in types.values())
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
    return Network(model)


def test_a_bias_that_comes_first_does_not_make_its_layer_float32() -> None:
    """PyTorch writes Add(bias, product), and 8.6 reports FLOAT for the half-precision bias."""
    weight, bias = np.ones((4, 4), np.float16), np.ones(4, np.float16)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Add", ["b", "p"], ["y"], name="bias"),
    ]
    network = half_network(nodes, {"w": weight, "b": bias})
    assert network.layers[1].get_output(0).dtype is DataType.FLOAT, "as 8.6 reports it"
    obey_types(TENSORRT_8_6, network, Config())
    found = {layer.name: layer.precision for layer in network.layers if layer.type is LayerType.OTHER}
    assert found == {"product": DataType.HALF, "bias": DataType.HALF}


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, DataType.HALF), (np.float32, DataType.FLOAT)])
def test_a_layer_of_constants_computes_in_the_type_of_their_weights(dtype: type, kind: DataType) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"], name="constants"),
        helper.make_node("Cast", ["c"], ["d"], name="cast", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Mul", ["x", "d"], ["y"], name="product"),
    ]
    network = half_network(nodes, {"a": np.ones(4, dtype), "b": np.ones(4, dtype)})
    obey_types(TENSORRT_8_6, network, Config())
    found = {layer.name: layer.precision for layer in network.layers if layer.type is LayerType.OTHER}
    assert found == {"constants": kind, "product": DataType.HALF}
