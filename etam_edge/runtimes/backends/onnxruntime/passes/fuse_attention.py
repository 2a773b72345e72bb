"""Self-attention over many tokens becomes one MultiHeadAttention, which never writes the whole score matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, OnnxFile, attribute_of, copy_node, make_node
from etam_edge.runtimes.backends.onnxruntime.passes.graph_links import GraphLinks, Replacements

MIN_TOKENS = 512
"""Attention over fewer tokens is not fused: its scores fit into a cache, and fusing gains nothing."""


def fuse_attention(file: OnnxFile, *, min_tokens: int = MIN_TOKENS) -> int:
    """Fuse every self-attention without a bias over at least `min_tokens` tokens.

    Returns:
        the number of attentions fused.
    """
    graph, replacements = GraphLinks(file.nodes), Replacements()
    count = 0
    for node in file.nodes:
        found = _attention(file, graph, node) if node.op_type == "Softmax" else None
        if found is None or found.tokens < min_tokens:
            continue
        name, channels = node.name, found.heads * found.width
        shape = file.add_constant(f"{name}:tokens", np.array([-1, found.tokens, channels], dtype=np.int64))
        flat = [f"{name}:{part}" for part in ("query", "key", "value")]
        reshapes = [
            make_node("Reshape", [source, shape], [target], target)
            for source, target in zip((found.query, found.key, found.value), flat, strict=True)
        ]
        attributes = {"num_heads": found.heads, "scale": found.scale}
        fused = make_node("MultiHeadAttention", flat, [f"{name}:output"], f"{name}:fused", attributes, DOMAIN)
        last = copy_node(found.last, inputs=[f"{name}:output", *found.last.input[1:]])
        replacements.replace(found.last, [*reshapes, fused, last])
        count += 1
    replacements.apply(file)
    return count


class _Attention(NamedTuple):
    """Self-attention in the graph.

    Attributes:
        query, key, value: names of tensors (batch, tokens, heads * width), before the split into heads.
        scale: factor of the queries.
        last: the Reshape that joins the heads again.
    """

    query: str
    key: str
    value: str
    heads: int
    tokens: int
    width: int
    scale: float
    last: Any


def _attention(file: OnnxFile, graph: GraphLinks, softmax: Any) -> _Attention | None:
    """The attention around a Softmax, if it has the form that the exporter writes."""
    scores = graph.writer(softmax.input[0], "MatMul")
    product = graph.only_reader(softmax.output[0], "MatMul")
    if scores is None or product is None or product.input[0] != softmax.output[0]:
        return None
    scaled = graph.writer(scores.input[0], "Mul")
    if scaled is None or graph.only_reader(scores.output[0]) is None:
        return None
    scale = scaled.input[1]
    if scale not in file.constants or file.values(scale).shape != ():
        return None
    sources = [
        _heads_of(file, graph, tensor, order)
        for tensor, order in (
            (scaled.input[0], (0, 2, 1, 3)),
            (scores.input[1], (0, 2, 3, 1)),
            (product.input[1], (0, 2, 1, 3)),
        )
    ]
    joined = graph.only_reader(product.output[0], "Transpose")
    last = graph.only_reader(joined.output[0], "Reshape") if joined is not None else None
    if last is None or attribute_of(joined, "perm") != (0, 2, 1, 3):
        return None
    query, key, value = sources
    if query is None or key is None or value is None or not query[1] == key[1] == value[1]:
        return None
    tokens, heads, width = query[1]
    return _Attention(query[0], key[0], value[0], heads, tokens, width, float(file.values(scale)), last)


def _heads_of(
    file: OnnxFile, graph: GraphLinks, tensor: str, order: tuple[int, ...]
) -> tuple[str, tuple[int, int, int]] | None:
    """The tensor that was split into heads and transposed to `tensor`, with (tokens, heads, channels of a head)."""
    transpose = graph.writer(tensor, "Transpose")
    if transpose is None or attribute_of(transpose, "perm") != order:
        return None
    reshape = graph.writer(transpose.input[0], "Reshape")
    if reshape is None or reshape.input[1] not in file.constants:
        return None
    shape = file.values(reshape.input[1])
    if shape.shape != (4,):
        return None
    _, tokens, heads, width = (int(size) for size in shape)
    return (reshape.input[0], (tokens, heads, width)) if min(tokens, heads, width) > 0 else None
