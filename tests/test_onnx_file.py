"""Reading and writing ONNX models without the onnx package."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import Bundle
from etam_edge.errors import BundleError
from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile, attribute_of, copy_node, make_node
from etam_edge.spec import Pooling

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture(scope="module")
def encode(small_bundle: SmallBundleMaker) -> str:
    return str(Bundle.load(small_bundle(Pooling.NONE)).graph_path("encode"))


def test_an_unchanged_file_is_the_same_model(encode: str) -> None:
    with open(encode, "rb") as file:
        data = file.read()
    before, after = onnx.load_from_string(data), onnx.load_from_string(OnnxFile(data).to_bytes())
    assert all([before.producer_name, before.graph.input, before.graph.input[0].type.tensor_type.shape.dim])
    del before.graph.value_info[:]
    assert after == before


def test_undeclared_fields_of_changed_nodes_are_kept() -> None:
    """Strings, tensors and nested graphs as attributes are unknown to the messages declared here."""
    nested = helper.make_graph([helper.make_node("Relu", ["a"], ["r"])], "then", [], [])
    node = helper.make_node("X", ["a"], ["b"], name="n", text="abc", reals=[0.5, 1.5], branch=nested)
    node.doc_string = "words"
    file = OnnxFile(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    file.nodes = [copy_node(file.nodes[0], ["c"], ["d"], "m")]
    [again] = onnx.load_from_string(file.to_bytes()).graph.node
    node.input[:], node.output[:], node.name = ["c"], ["d"], "m"
    assert again == node


def test_constants_are_read_in_every_form() -> None:
    tensors = {
        "raw": numpy_helper.from_array(np.array([[1, -2]], dtype=np.int64), "raw"),
        "ints": helper.make_tensor("ints", TensorProto.INT64, [2], [3, -4]),
        "floats": helper.make_tensor("floats", TensorProto.FLOAT, [2], [0.5, -1.5]),
        "bytes": helper.make_tensor("bytes", TensorProto.INT8, [3], [-1, 0, 127]),
        "scalar": numpy_helper.from_array(np.float32(0.25), "scalar"),
    }
    graph = helper.make_graph([], "g", [], [], list(tensors.values()))
    file = OnnxFile(helper.make_model(graph).SerializeToString())
    assert file.constants.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.values(name), numpy_helper.to_array(tensor))
        assert file.values(name).dtype == numpy_helper.to_array(tensor).dtype


def test_a_constant_of_another_type_is_refused_by_name() -> None:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(2, np.float64), "double")])
    file = OnnxFile(helper.make_model(graph).SerializeToString())
    with pytest.raises(BundleError, match="constant 'double' has TensorProto data type 11"):
        file.values("double")


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int32", "int64"])
def test_added_constants_are_read_by_onnx(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    file = OnnxFile(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString())
    assert file.add_constant("c", values) == "c"
    assert file.add_constant("c", values) == "c", "the one that is there"
    [tensor] = onnx.load_from_string(file.to_bytes()).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), values)
    assert numpy_helper.to_array(tensor).dtype == dtype


def test_attributes_are_read_and_written() -> None:
    attributes = {"ints": (1, -2), "one": -7, "real": 0.5}
    given = helper.make_node("X", ["a"], ["b"], name="n", domain="d", ints=[1, -2], one=-7, real=0.5)
    file = OnnxFile(helper.make_model(helper.make_graph([given], "g", [], [])).SerializeToString())
    assert {name: attribute_of(file.nodes[0], name) for name in attributes} == attributes
    assert attribute_of(file.nodes[0], "absent") is None
    file.nodes = [make_node("X", ["a"], ["b"], "n", attributes, "d")]
    [again] = onnx.load_from_string(file.to_bytes()).graph.node
    assert {a.name: a for a in again.attribute} == {a.name: a for a in given.attribute}
    assert (again.op_type, again.domain, again.name, [*again.input], [*again.output]) == ("X", "d", "n", ["a"], ["b"])


@pytest.mark.parametrize("data", [b"", b"no model at all", b"\x3a\xff\xff"])
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="damaged"):
        OnnxFile(data)


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_every_implementation_of_protobuf_serves(encode: str, implementation: str) -> None:
    """Beside the onnx package in one process, which declares messages of the same file format."""
    code = (
        "import onnx, sys; from google.protobuf.internal import api_implementation;"
        "from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile;"
        "data = open(sys.argv[1], 'rb').read(); model = onnx.load_from_string(OnnxFile(data).to_bytes());"
        "before = onnx.load_from_string(data); del before.graph.value_info[:];"
        "print(api_implementation.Type(), model == before)"
    )
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    done = subprocess.run([sys.executable, "-c", code, encode], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [implementation, "True"], done.stderr
