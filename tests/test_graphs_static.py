"""The graphs are static: every dimension a number but the object axis, nothing decided or measured at run time."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SmallBundleMaker

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper  # noqa: E402

from etam_edge.bundle import GRAPH_NAMES, OBJECTS, Bundle  # noqa: E402
from etam_edge.exporters.graphs.tracing import OPSET  # noqa: E402
from etam_edge.exporters.passes.check_static import static_problems  # noqa: E402
from etam_edge.spec import Pooling  # noqa: E402


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_graph_is_static(name: str, pooling: Pooling, small_bundle: SmallBundleMaker) -> None:
    bundle = Bundle.load(small_bundle(pooling))
    model = onnx.load(bundle.graph_path(name))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert static_problems(model) == []
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"If", "Loop", "NonZero", "Shape", "GridSample"}
    for value in (*model.graph.input, *model.graph.output):
        sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        assert all(isinstance(size, int) and size > 0 for size in sizes[1:])
        assert sizes[0] in (1, OBJECTS)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_no_constant_is_held_twice(name: str, small_bundle: SmallBundleMaker) -> None:
    model = onnx.load(Bundle.load(small_bundle(Pooling.SCORE_BIAS)).graph_path(name))
    contents = [(tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in model.graph.initializer]
    assert len(set(contents)) == len(contents)


def test_layer_norm_stays_one_node(small_bundle: SmallBundleMaker) -> None:
    model = onnx.load(Bundle.load(small_bundle(Pooling.KEY_BIAS)).graph_path("track"))
    operators = [node.op_type for node in model.graph.node]
    assert "LayerNormalization" in operators
    assert "ReduceMean" not in {node.op_type for node in model.graph.node if "norm" in node.name.lower()}


def graph_of(*nodes: onnx.NodeProto, shape: list[int | str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_what_is_not_static_is_named() -> None:
    """The proof can fail."""
    relu = helper.make_node("Relu", ["x"], ["y"])
    assert static_problems(graph_of(relu, shape=[OBJECTS, 4])) == []
    assert any("'y'" in text for text in static_problems(graph_of(relu, shape=[OBJECTS, "width"])))
    shape = helper.make_node("Shape", ["x"], ["s"])
    reshape = helper.make_node("Reshape", ["x", "s"], ["y"])
    assert any("Shape" in text for text in static_problems(graph_of(shape, reshape, shape=[OBJECTS, 4])))
    sizes = helper.make_node(
        "Constant", [], ["sizes"], value=helper.make_tensor("v", TensorProto.INT64, [4], [1, 1, 2, 2])
    )
    resize = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1)
    assert any("antialiased" in text for text in static_problems(graph_of(sizes, resize, shape=[1, 1, 4, 4])))


def test_every_pooled_graph_takes_unpooled_slots(small_bundle: SmallBundleMaker) -> None:
    for pooling in Pooling:
        outputs = Bundle.load(small_bundle(pooling)).manifest.graphs["remember"].signature.outputs
        names = [tensor.name for tensor in outputs]
        assert ("unpooled_keys" in names) == (pooling is not Pooling.NONE)


def test_bundle_graphs_are_where_the_manifest_says(small_bundle: SmallBundleMaker) -> None:
    path = small_bundle(Pooling.NONE)
    files = sorted(str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file())
    assert files == ["bundle.json", *(f"graphs/{name}.onnx" for name in sorted(GRAPH_NAMES))]
