"""Self-attention as one operator."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SmallBundleMaker

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx

from etam_edge.bundle import Bundle
from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, OnnxFile
from etam_edge.runtimes.backends.onnxruntime.passes.fuse_attention import fuse_attention
from etam_edge.spec import Pooling
from etam_edge_testing.onnx_graphs import example_feeds, operators, run_graph


def fused(data: bytes, min_tokens: int) -> tuple[bytes, int]:
    file = OnnxFile(data)
    count = fuse_attention(file, min_tokens=min_tokens)
    file.add_domain(DOMAIN, 1)
    return file.to_bytes(), count


@pytest.fixture(scope="module")
def bundle(small_bundle: SmallBundleMaker) -> Bundle:
    return Bundle.load(small_bundle(Pooling.NONE))


def test_global_attention_is_fused_and_gives_the_same_results(bundle: Bundle) -> None:
    data, feeds = bundle.graph_path("encode").read_bytes(), example_feeds(bundle, "encode")
    rewritten, count = fused(data, 64)
    assert count == 1, "one block of the small model is global"
    assert operators(rewritten)["MultiHeadAttention"] == 1
    # The windowed blocks have a softmax for windows of every size.
    assert operators(rewritten)["Softmax"] == operators(data)["Softmax"] - 1
    [before], [after] = run_graph(data, feeds), run_graph(rewritten, feeds)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_attention_over_few_tokens_is_not_fused(bundle: Bundle) -> None:
    data = bundle.graph_path("encode").read_bytes()
    rewritten, count = fused(data, 65)
    assert count == 0
    assert operators(rewritten) == operators(data)


def test_attention_with_a_bias_is_not_fused(bundle: Bundle) -> None:
    data = bundle.graph_path("track").read_bytes()
    rewritten, _ = fused(data, 1)
    names = {node.name for node in onnx.load_from_string(rewritten).graph.node if node.op_type == "Softmax"}
    assert {f"/attention/layers.{layer}/cross_attention/Softmax" for layer in range(2)} <= names
    assert operators(data)["Softmax"] > len(names), "the decoder's attention has none and is fused at this limit"
