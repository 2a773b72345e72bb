"""Graphs rewritten for the CPU answer what they answered before, and hold the operators that they should."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import Bundle
from etam_edge.errors import BundleError
from etam_edge.runtimes.backends.onnxruntime import cpu_rewrites
from etam_edge.runtimes.backends.onnxruntime.cpu_rewrites import (
    DOMAIN,
    QUERIES_AT_ONCE,
    fuse_attention,
    fuse_int8_products,
    rewrite_for_cpu,
    split_queries,
)
from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile
from etam_edge.spec import Pooling

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def answers(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def example_feeds(bundle: Bundle, graph: str, objects: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    highest = {"uint8": 200, "int32": 7}
    return {
        t.name: rng.integers(0, highest[t.dtype], t.sized(objects)).astype(t.dtype)
        if t.dtype in highest
        else rng.standard_normal(t.sized(objects)).astype(t.dtype)
        for t in bundle.manifest.graphs[graph].signature.inputs
    }


def operators(data: bytes) -> Counter:
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


def fused(data: bytes, **options: Any) -> tuple[bytes, int]:
    file = OnnxFile(data)
    count = fuse_attention(file, **options)
    file.add_domain(DOMAIN, 1)
    return file.to_bytes(), count


@pytest.fixture(scope="module")
def encode(small_bundle: SmallBundleMaker) -> tuple[bytes, dict[str, np.ndarray]]:
    bundle = Bundle.load(small_bundle(Pooling.NONE))
    return bundle.graph_path("encode").read_bytes(), example_feeds(bundle, "encode")


def test_a_file_that_nothing_changed_is_the_same_model(encode: tuple[bytes, Any]) -> None:
    data, _ = encode
    before, after = onnx.load_from_string(data), onnx.load_from_string(OnnxFile(data).to_bytes())
    del before.graph.value_info[:]
    assert after == before


def test_constants_are_read_in_every_form() -> None:
    values = {
        "raw": numpy_helper.from_array(np.array([[1, -2]], dtype=np.int64), "raw"),
        "ints": helper.make_tensor("ints", TensorProto.INT64, [2], [3, -4]),
        "floats": helper.make_tensor("floats", TensorProto.FLOAT, [2], [0.5, -1.5]),
        "bytes": helper.make_tensor("bytes", TensorProto.INT8, [3], [-1, 0, 127]),
        "scalar": numpy_helper.from_array(np.float32(0.25), "scalar"),
    }
    graph = helper.make_graph([], "g", [], [], list(values.values()))
    constants = OnnxFile(helper.make_model(graph).SerializeToString()).constants
    for name, tensor in values.items():
        np.testing.assert_array_equal(constants[name].values, numpy_helper.to_array(tensor))
        assert constants[name].values.dtype == numpy_helper.to_array(tensor).dtype


def test_attributes_are_read_and_written() -> None:
    made = helper.make_node("X", ["a"], ["b"], name="n", domain="d", ints=[1, -2], one=-7, real=0.5)
    file = OnnxFile(helper.make_model(helper.make_graph([made], "g", [], [])).SerializeToString())
    [node] = file.nodes
    assert node.attributes == {"ints": (1, -2), "one": -7, "real": 0.5}
    node.raw = None
    [again] = onnx.load_from_string(file.to_bytes()).graph.node
    assert {a.name: helper.get_attribute_value(a) for a in again.attribute} == {"ints": [1, -2], "one": -7, "real": 0.5}
    assert (again.op_type, again.domain, again.name, list(again.input), list(again.output)) == (
        "X",
        "d",
        "n",
        ["a"],
        ["b"],
    )


@pytest.mark.parametrize("data", [b"", b"no model at all", b"\x3a\xff\xff"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="damaged"):
        OnnxFile(data)


def test_global_attention_is_fused_and_answers_the_same(encode: tuple[bytes, dict]) -> None:
    data, feeds = encode
    made, count = fused(data, fewest_tokens=64)
    assert count == 1, "one block of the small model is global"
    assert operators(made)["MultiHeadAttention"] == 1
    # The windowed blocks have a softmax for windows of every size.
    assert operators(made)["Softmax"] == operators(data)["Softmax"] - 1
    [before], [after] = answers(data, feeds), answers(made, feeds)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_attention_over_few_tokens_is_left_alone(encode: tuple[bytes, dict]) -> None:
    data, _ = encode
    assert fused(data, fewest_tokens=65)[1] == 0
    assert rewrite_for_cpu(data) is data, "nothing to do, nothing done"


def test_attention_with_a_bias_is_left_alone(small_bundle: SmallBundleMaker) -> None:
    bundle = Bundle.load(small_bundle(Pooling.NONE))
    before = operators(bundle.graph_path("track").read_bytes())
    made, _ = fused(bundle.graph_path("track").read_bytes(), fewest_tokens=1)
    names = {node.name for node in onnx.load_from_string(made).graph.node if node.op_type == "Softmax"}
    assert {f"/attention/layers.{layer}/cross_attention/Softmax" for layer in range(2)} <= names
    assert before["Softmax"] > len(names), "the decoder's attention has none and is fused at this limit"


# --- int8 ---


def quantized(
    weights: np.ndarray, bias: np.ndarray | None, turned: bool = False, zero: int = 0
) -> tuple[bytes, dict[str, np.ndarray]]:
    """x W + b in Q/DQ form as the exporter writes it; `turned`: W is an activation, transposed before it is rounded."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["x8"], name="qx"),
        helper.make_node("DequantizeLinear", ["x8", "xs", "xz"], ["xd"], name="dx"),
    ]
    constants: dict[str, np.ndarray] = {"xs": np.float32(0.03), "xz": np.int8(zero)}
    feeds = {"x": rng.standard_normal((1, 6, weights.shape[0])).astype(np.float32)}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, weights.shape[0]])]
    if turned:
        feeds["w"] = np.ascontiguousarray(weights.T)[None]
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(feeds["w"].shape)))
        constants |= {"ws": np.float32(0.02), "wz": np.int8(0)}
        nodes += [
            helper.make_node("Transpose", ["w"], ["wt"], name="turn", perm=[0, 2, 1]),
            helper.make_node("QuantizeLinear", ["wt", "ws", "wz"], ["w8"], name="qw"),
            helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"], name="dw"),
        ]
    else:
        scale = (np.abs(weights).max(0) / 127).astype(np.float32)
        constants |= {
            "ws": scale,
            "wz": np.zeros(len(scale), np.int8),
            "w8": np.round(weights / scale).astype(np.int8),
        }
        nodes.append(helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"], name="dw", axis=1))
    nodes.append(helper.make_node("MatMul", ["xd", "wd"], ["y" if bias is None else "p"], name="product"))
    if bias is not None:
        constants["b"] = bias
        nodes.append(helper.make_node("Add", ["b", "p"], ["y"], name="bias"))
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString(), feeds


def rewritten(data: bytes, unsigned: bool = True) -> tuple[bytes, int]:
    file = OnnxFile(data)
    count = fuse_int8_products(file, unsigned)
    file.add_domain(DOMAIN, 1)
    return file.to_bytes(), count


WEIGHTS = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)


@pytest.mark.parametrize("bias", [None, np.arange(8, dtype=np.float32)], ids=["no bias", "bias"])
@pytest.mark.parametrize("turned", [False, True], ids=["weights", "activations"])
@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
def test_an_int8_product_is_one_operator(bias: np.ndarray | None, turned: bool, unsigned: bool) -> None:
    data, feeds = quantized(WEIGHTS, bias, turned)
    made, count = rewritten(data, unsigned)
    assert count == 1
    found = operators(made)
    assert found["MatMulIntegerToFloat"] == 1
    assert not found["MatMul"] + found["DequantizeLinear"], "nothing of the old form is left"
    assert found["Add"] == (turned and bias is not None), "a bias belongs to weights"
    [before], [after] = answers(data, feeds), answers(made, feeds)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    if turned:
        kinds = [node.op_type for node in onnx.load_from_string(made).graph.node]
        assert kinds.index("Transpose") > kinds.index("QuantizeLinear"), "bytes are transposed, not floats"


def test_a_zero_that_is_not_0_is_left_alone() -> None:
    data, _ = quantized(WEIGHTS, None, zero=3)
    assert rewritten(data)[1] == 0


def test_a_bias_of_another_length_stays_an_addition() -> None:
    data, feeds = quantized(WEIGHTS, np.float32([0.5]))
    made, count = rewritten(data)
    assert (count, operators(made)["Add"]) == (1, 1)
    np.testing.assert_allclose(answers(made, feeds)[0], answers(data, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("machine", "kind"), [("x86_64", "uint8"), ("AMD64", "uint8"), ("aarch64", "int8")])
def test_first_factors_are_what_the_kernels_want(machine: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_rewrites.platform, "machine", lambda: machine)
    data, _ = quantized(WEIGHTS, None)
    model = onnx.load_from_string(rewrite_for_cpu(data))
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    [rounding] = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    [product] = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert zeros[rounding.input[2]].dtype == kind
    assert product.input[0] == rounding.output[0]
    assert (product.input[4] == rounding.input[2]) is (kind == "uint8"), "a zero of 0 needs not be said"


def test_an_activation_is_rounded_once() -> None:
    """Queries, keys and values read the same tokens."""
    data, feeds = quantized(WEIGHTS, np.arange(8, dtype=np.float32))
    model = onnx.load_from_string(data)
    for name in ("second", "third"):
        model.graph.node.append(helper.make_node("MatMul", ["xd", "wd"], [name], name=name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    data = model.SerializeToString()
    made, count = rewritten(data)
    assert (count, operators(made)["QuantizeLinear"]) == (3, 1)
    for before, after in zip(answers(data, feeds), answers(made, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


# --- queries in parts ---


@pytest.mark.parametrize("objects", [1, 3])
def test_attention_in_parts_answers_the_same(
    small_bundle: SmallBundleMaker, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUERIES_AT_ONCE, "MatMul", 16)
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    data = bundle.graph_path("track").read_bytes()
    file = OnnxFile(data)
    assert split_queries(file, tokens=64) == 2, "one memory cross-attention in each of two layers"
    made = file.to_bytes()
    found, before = operators(made), operators(data)
    assert found["Split"] - before["Split"] == 2
    assert found["Softmax"] - before["Softmax"] == 2 * 3, "four in the place of one"
    feeds = example_feeds(bundle, "track", objects)
    for name, old, new in zip(
        [t.name for t in bundle.manifest.graphs["track"].signature.outputs],
        answers(data, feeds),
        answers(made, feeds),
        strict=True,
    ):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("tokens", [64, 100], ids=["too few", "not whole parts"])
def test_attention_that_does_not_split_evenly_is_left_whole(small_bundle: SmallBundleMaker, tokens: int) -> None:
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    assert split_queries(OnnxFile(bundle.graph_path("track").read_bytes()), tokens) == 0


def test_int8_scores_are_split_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUERIES_AT_ONCE, "MatMulIntegerToFloat", 2)
    data, feeds = quantized(WEIGHTS, None, turned=True)
    model = onnx.load_from_string(data)
    del model.graph.output[:]
    model.graph.node.extend(
        [
            helper.make_node("Add", ["y", "slots"], ["biased"], name="slots"),
            helper.make_node("Softmax", ["biased"], ["shares"], name="softmax", axis=-1),
            helper.make_node("MatMul", ["shares", "values"], ["z"], name="values"),
        ]
    )
    rng = np.random.default_rng(3)
    for name, shape in (("slots", (1, 1, 8)), ("values", (1, 8, 5))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    data = model.SerializeToString()
    made = rewrite_for_cpu(data, memory_queries=6)
    assert operators(made)["MatMulIntegerToFloat"] == 3
    np.testing.assert_allclose(answers(made, feeds)[0], answers(data, feeds)[0], rtol=1e-5, atol=1e-5)


def test_sessions_run_rewritten_graphs(small_bundle: SmallBundleMaker) -> None:
    """The backend asks for it on a CPU, and has queries split where there is memory attention and nowhere else."""
    from etam_edge import Tracker

    seen: list[int | None] = []

    def counted(data: bytes, memory_queries: int | None) -> bytes:
        seen.append(memory_queries)
        return rewrite_for_cpu(data, memory_queries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etam_edge.runtimes.backends.onnxruntime.backend.rewrite_for_cpu", counted)
        Tracker.load(small_bundle(Pooling.NONE), "onnxruntime", provider="cpu")
    assert seen == [None, None, None, 64]
