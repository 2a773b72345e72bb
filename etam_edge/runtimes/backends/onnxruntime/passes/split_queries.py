"""Memory cross-attention over all queries becomes several over a few queries each.

Its bias over keys fits no fused operator of ONNX Runtime. The scores of 4096 queries and 8260 keys are 135 MB, which go
through main memory five times; those of a few queries stay in a cache.
"""

from __future__ import annotations

from typing import Any

from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile, copy_node, make_node
from etam_edge.runtimes.backends.onnxruntime.passes.graph_links import GraphLinks, Replacements

QUERIES_AT_ONCE = {"MatMul": 256, "MatMulIntegerToFloat": 128}
"""Queries of a part, by the operator that computes the scores. Every part packs the keys anew for its product, and in
int8 that is a quarter of the work."""


def split_queries(file: OnnxFile, *, tokens: int) -> int:
    """Split every attention with a bias into parts of QUERIES_AT_ONCE queries.

    Args:
        file: its only attentions with a bias are memory cross-attentions.
        tokens: number of queries, on axis 1 of the first factor. An attention that does not divide into whole parts is
            left as it is.

    Returns:
        the number of attentions split.
    """
    graph, replacements = GraphLinks(file.nodes), Replacements()
    count = 0
    for softmax in file.nodes:
        found = _biased_attention(graph, softmax) if softmax.op_type == "Softmax" else None
        if found is None:
            continue
        scores, biased, product = found
        parts, remainder = divmod(tokens, QUERIES_AT_ONCE[scores.op_type])
        if remainder or parts < 2:
            continue
        queries = [f"{scores.input[0]}:part {part}" for part in range(parts)]
        new = [make_node("Split", [scores.input[0]], queries, f"{softmax.name}:split", {"axis": 1})]
        for part, query in enumerate(queries):
            renamed = {name: f"{name}:part {part}" for node in (*found, softmax) for name in node.output}
            for node in (scores, biased, softmax, product):
                inputs = [renamed.get(name, name) for name in node.input]
                if node is scores:
                    inputs[0] = query
                new.append(copy_node(node, inputs, [renamed[node.output[0]]], f"{node.name}:part {part}"))
        results = [f"{product.output[0]}:part {part}" for part in range(parts)]
        new.append(make_node("Concat", results, product.output, f"{softmax.name}:join", {"axis": 1}))
        for node in (scores, biased, softmax):
            replacements.replace(node, [])
        replacements.replace(product, new)
        count += 1
    replacements.apply(file)
    return count


def _biased_attention(graph: GraphLinks, softmax: Any) -> tuple[Any, Any, Any] | None:
    """The nodes of the scores, of their bias and of the product with the values around a Softmax, if it has a bias."""
    biased = graph.writer(softmax.input[0], "Add")
    product = graph.only_reader(softmax.output[0], "MatMul")
    if biased is None or product is None or product.input[0] != softmax.output[0]:
        return None
    scores = graph.writer(biased.input[0], *QUERIES_AT_ONCE)
    if scores is None or graph.only_reader(scores.output[0]) is None:
        return None
    return scores, biased, product
