"""Memory cross-attention over a few queries at a time."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SmallBundleMaker

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.bundle import Bundle
from etam_edge.runtimes.backends.onnxruntime.cpu_rewrites import rewrite_for_cpu
from etam_edge.runtimes.backends.onnxruntime.int8_forms import FLOAT, UINT8_UINT8
from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile
from etam_edge.runtimes.backends.onnxruntime.passes.split_queries import QUERIES_AT_ONCE, split_queries
from etam_edge.spec import Pooling
from etam_edge_testing.onnx_graphs import WEIGHTS, example_feeds, operators, quantized_product, run_graph


@pytest.mark.parametrize("objects", [1, 3])
def test_attention_in_parts_gives_the_same_results(
    small_bundle: SmallBundleMaker, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUERIES_AT_ONCE, "MatMul", 16)
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    data = bundle.graph_path("track").read_bytes()
    file = OnnxFile(data)
    assert split_queries(file, tokens=64) == 2, "one memory cross-attention in each of two layers"
    rewritten = file.to_bytes()
    found, before = operators(rewritten), operators(data)
    assert found["Split"] - before["Split"] == 2
    assert found["Softmax"] - before["Softmax"] == 2 * 3, "four in the place of one"
    feeds = example_feeds(bundle, "track", objects)
    for tensor, old, new in zip(
        bundle.manifest.graphs["track"].signature.outputs,
        run_graph(data, feeds),
        run_graph(rewritten, feeds),
        strict=True,
    ):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4, err_msg=tensor.name)


@pytest.mark.parametrize("tokens", [64, 100], ids=["too few", "not whole parts"])
def test_attention_that_does_not_split_evenly_is_left_whole(small_bundle: SmallBundleMaker, tokens: int) -> None:
    data = Bundle.load(small_bundle(Pooling.SCORE_BIAS)).graph_path("track").read_bytes()
    assert split_queries(OnnxFile(data), tokens=tokens) == 0
    assert rewrite_for_cpu(data, FLOAT, memory_queries=tokens) is data


def test_int8_scores_are_split_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUERIES_AT_ONCE, "MatMulIntegerToFloat", 2)
    data, feeds = quantized_product(WEIGHTS, activation=True)
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
    rewritten = rewrite_for_cpu(data, UINT8_UINT8, memory_queries=6)
    assert operators(rewritten)["MatMulIntegerToFloat"] == 3
    np.testing.assert_allclose(run_graph(rewritten, feeds)[0], run_graph(data, feeds)[0], rtol=1e-5, atol=1e-5)
