"""Small ONNX graphs, one for each way to compute a thing, of the shapes that the models have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "com.microsoft"
WIDTH, VALUES = 256, 64
"""Channels of memory attention's keys, and of memory."""


@dataclass(frozen=True, eq=False)
class Case:
    """One thing and the ways to compute it; the first is the plain one. All of them answer one tensor.

    Attributes:
        what: it is.
        ways: serialized models by what is special about them.
        feeds: of every one of them.
    """

    what: str
    ways: Mapping[str, bytes]
    feeds: Mapping[str, np.ndarray]


def cases(sides: Sequence[int] = (512, 1024), slots: int = 8) -> list[Case]:
    """All that is measured, for models of these image sizes.

    Args:
        sides: image sizes in pixels.
        slots: of the memory bank, each of 1024 tokens as 512 px unpooled and 1024 px pooled have.
    """
    found = []
    for side in sides:
        tokens = (side // 16) ** 2
        found += [
            _self_attention(f"ViT, global attention, {side} px", tokens, heads=3, width=64),
            _self_attention(f"memory attention, self-attention, {side} px", tokens, heads=1, width=WIDTH),
            _cross_attention(f"memory attention, cross-attention in fp32, {side} px", tokens, slots * 1024),
            _int8_scores(f"its query-key product, {side} px", tokens, slots * 1024),
        ]
    return found


def _self_attention(what: str, tokens: int, heads: int, width: int) -> Case:
    channels = heads * width
    split = [helper.make_node("Reshape", [name, "split"], [f"{name}1"]) for name in "qkv"]
    turn = [
        helper.make_node("Transpose", [f"{name}1"], [f"{name}2"], perm=order)
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    ]
    join = [
        helper.make_node("Transpose", ["o1"], ["o2"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["o2", "join"], ["o"]),
    ]
    shapes = {"split": np.array([1, tokens, heads, width]), "join": np.array([1, tokens, channels])}
    inputs = dict.fromkeys("qkv", (1, tokens, channels))
    scale = {"scale": np.float32(width**-0.5)}
    begin = [*split, *turn, helper.make_node("Mul", ["q2", "scale"], ["qs"])]
    fused = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["o"], domain=DOMAIN, num_heads=heads, scale=width**-0.5
    )
    ways = {
        "plain": _model([*begin, *_attend("qs", "k2", "v2", "o1"), *join], inputs, shapes | scale),
        "MultiHeadAttention": _model([fused], inputs, {}),
        "256 queries at a time": _model(
            [*begin, *_attend_in_parts(max(tokens // 256, 2), 2, "k2", "v2", "o1"), *join], inputs, shapes | scale
        ),
    }
    return Case(what, ways, _feeds(inputs))


def _cross_attention(what: str, tokens: int, keys: int) -> Case:
    inputs = {"q": (1, tokens, WIDTH), "k": (1, keys, WIDTH), "v": (1, keys, VALUES), "b": (1, 1, keys)}
    scale = {"scale": np.float32(WIDTH**-0.5)}
    begin = [
        helper.make_node("Mul", ["q", "scale"], ["qs"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
    ]

    def in_parts(size: int) -> bytes:
        nodes = _attend_in_parts(tokens // size, 1, "kt", "v", "o", bias="b")
        return _model([*begin, *nodes], inputs, scale)

    # exp(s + b) = exp(s) exp(b): values times exp(b), exp(b) as one value more, and a division at the end.
    weighted = [
        helper.make_node("Exp", ["b"], ["e"]),
        helper.make_node("Transpose", ["e"], ["w"], perm=[0, 2, 1]),
        helper.make_node("Mul", ["v", "w"], ["vw"]),
        helper.make_node("Concat", ["vw", "w"], ["v1"], axis=2),
        helper.make_node("MultiHeadAttention", ["q", "k", "v1"], ["o1"], domain=DOMAIN, num_heads=1, scale=WIDTH**-0.5),
        helper.make_node("Split", ["o1", "sizes"], ["above", "below"], axis=2),
        helper.make_node("Div", ["above", "below"], ["o"]),
    ]
    ways = {
        "plain": _model([*begin, *_attend("qs", "kt", "v", "o", bias="b")], inputs, scale),
        "256 queries at a time": in_parts(256),
        "128 queries at a time": in_parts(128),
        "MultiHeadAttention, slot bias as weights": _model(weighted, inputs, {"sizes": np.array([VALUES, 1])}),
    }
    return Case(what, ways, _feeds(inputs))


def _int8_scores(what: str, tokens: int, keys: int) -> Case:
    """Keys are rounded and transposed on every frame: their time codes change."""
    inputs = {"q": (1, tokens, WIDTH), "k": (1, keys, WIDTH)}
    constants = {
        "s": np.float32(5 / 127),
        "zero": np.int8(0),
        "zero_u": np.uint8(128),
    }

    def integer(zero: str) -> bytes:
        nodes = [
            helper.make_node("QuantizeLinear", ["q", "s", zero], ["q8"]),
            helper.make_node("QuantizeLinear", ["k", "s", "zero"], ["k8"]),
            helper.make_node("Transpose", ["k8"], ["kt"], perm=[0, 2, 1]),
            helper.make_node("MatMulIntegerToFloat", ["q8", "kt", "s", "s", zero], ["o"], domain=DOMAIN),
        ]
        return _model(nodes, inputs, constants)

    turn = helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1])
    rounded = [
        turn,
        *(helper.make_node("QuantizeLinear", [name, "s", "zero"], [f"{name}8"]) for name in ("q", "kt")),
        *(helper.make_node("DequantizeLinear", [f"{name}8", "s", "zero"], [f"{name}d"]) for name in ("q", "kt")),
        helper.make_node("MatMul", ["qd", "ktd"], ["o"]),
    ]
    ways = {
        "fp32": _model([turn, helper.make_node("MatMul", ["q", "kt"], ["o"])], inputs, {}),
        "Q/DQ, left to ONNX Runtime": _model(rounded, inputs, constants),
        "uint8 by int8, bytes transposed": integer("zero_u"),
        "int8 by int8, bytes transposed": integer("zero"),
    }
    return Case(what, ways, _feeds(inputs))


def _attend(query: str, keys: str, values: str, answer: str, bias: str | None = None) -> list[onnx.NodeProto]:
    """Scores of scaled queries, their softmax and the values, with a bias on the scores if there is one."""
    scores = f"{answer}s"
    nodes = [helper.make_node("MatMul", [query, keys], [scores])]
    if bias is not None:
        nodes.append(helper.make_node("Add", [scores, bias], [f"{answer}b"]))
        scores = f"{answer}b"
    nodes.append(helper.make_node("Softmax", [scores], [f"{answer}a"], axis=-1))
    return [*nodes, helper.make_node("MatMul", [f"{answer}a", values], [answer])]


def _attend_in_parts(
    parts: int, axis: int, keys: str, values: str, answer: str, bias: str | None = None
) -> list[onnx.NodeProto]:
    """The same for the queries `qs`, split along an axis."""
    queries = [f"part{part}" for part in range(parts)]
    nodes = [helper.make_node("Split", ["qs"], queries, axis=axis)]
    nodes += [node for query in queries for node in _attend(query, keys, values, f"{query}o", bias)]
    return [*nodes, helper.make_node("Concat", [f"{query}o" for query in queries], [answer], axis=axis)]


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[int, ...]], constants: Mapping[str, np.ndarray]
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "kernel",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)])
    made.ir_version = 8
    return made.SerializeToString()


def _feeds(inputs: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
