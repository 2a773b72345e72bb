"""Small ONNX graphs, and what ONNX Runtime computes of them, for tests of rewriting passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from etam_edge.bundle import Bundle

WEIGHTS = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)


def run_graph(data: bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs of a model on the CPU, without ONNX Runtime's own fusion of Q/DQ pairs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def example_feeds(bundle: Bundle, graph: str, objects: int = 1) -> dict[str, np.ndarray]:
    """Random inputs of a bundle's graph, of the declared types and shapes."""
    rng = np.random.default_rng(4)
    highest = {"uint8": 200, "int32": 7}
    return {
        t.name: rng.integers(0, highest[t.dtype], t.sized(objects)).astype(t.dtype)
        if t.dtype in highest
        else rng.standard_normal(t.sized(objects)).astype(t.dtype)
        for t in bundle.manifest.graphs[graph].signature.inputs
    }


def operators(data: bytes) -> Counter[str]:
    """How many nodes of every type a model has."""
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


def constants(data: bytes) -> dict[str, np.ndarray]:
    """The initializers of a model by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer}


def quantized_product(
    weights: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    activation: bool = False,
    zero: int = 0,
    rows: int = 6,
    first: np.ndarray | None = None,
) -> tuple[bytes, dict[str, np.ndarray]]:
    """x W + b in Q/DQ form as the exporter writes it, and inputs for it.

    Args:
        weights: float32 (K, N).
        bias: float32 (N,) or any shape that broadcasts to it.
        activation: W is not a constant but a second input `w`, which is transposed before it is quantized.
        zero: zero point of x.
        rows: of x, which is float32 (1, rows, K).
        first: x itself, instead of random numbers.
    """
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["x8"], name="qx"),
        helper.make_node("DequantizeLinear", ["x8", "xs", "xz"], ["xd"], name="dx"),
    ]
    values: dict[str, np.ndarray] = {"xs": np.float32(0.03), "xz": np.int8(zero)}
    x = rng.standard_normal((1, rows, weights.shape[0])).astype(np.float32) if first is None else first[None]
    feeds = {"x": x}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))]
    if activation:
        feeds["w"] = np.ascontiguousarray(weights.T)[None]
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(feeds["w"].shape)))
        values |= {"ws": np.float32(0.02), "wz": np.int8(0)}
        nodes += [
            helper.make_node("Transpose", ["w"], ["wt"], name="transpose", perm=[0, 2, 1]),
            helper.make_node("QuantizeLinear", ["wt", "ws", "wz"], ["w8"], name="qw"),
            helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"], name="dw"),
        ]
    else:
        scale = (np.abs(weights).max(0) / 127).astype(np.float32)
        values |= {
            "ws": scale,
            "wz": np.zeros(len(scale), np.int8),
            "w8": np.round(weights / scale).astype(np.int8),
        }
        nodes.append(helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["wd"], name="dw", axis=1))
    nodes.append(helper.make_node("MatMul", ["xd", "wd"], ["y" if bias is None else "p"], name="product"))
    if bias is not None:
        values["b"] = bias
        nodes.append(helper.make_node("Add", ["b", "p"], ["y"], name="bias"))
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString(), feeds
