"""What ONNX Runtime's CPU kernels do better than a bundle's standard operators, put in when a graph is loaded.

A bundle's graphs hold standard operators only, so that every runtime can read them. ONNX Runtime has operators of its
own (domain com.microsoft) that do the same in less time:

- `fuse_attention`: self-attention over many tokens as one MultiHeadAttention, which never writes the whole score
  matrix.
- `fuse_int8_products`: a multiplication of two dequantized factors, with its bias, as one MatMulIntegerToFloat. ONNX
  Runtime finds the multiplication by itself; but it leaves the bias to a pass of its own or, next to the product, makes
  both a Gemm in float, and it transposes keys in float.
- `split_queries`: memory cross-attention for a few queries at a time; its bias over keys fits no fused operator. Scores
  of 4096 queries and 8260 keys are 135 MB, which go through memory five times; those of a part stay in a cache.

Results are those of the graph as it was, to rounding error.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from etam_edge.runtimes.backends.onnxruntime.onnx_file import Node, OnnxFile

DOMAIN = "com.microsoft"
MIN_TOKENS = 512
"""Attention over fewer is left alone: its scores fit a cache, and there is nothing to gain."""
X86 = ("x86_64", "amd64")
"""Processors whose kernels multiply uint8 by int8; int8 by int8 takes ten times as long there. ARM's take both int8."""
QUERIES_AT_ONCE = {"MatMul": 256, "MatMulIntegerToFloat": 128}
"""By the operator that makes the scores. Every part has the keys packed anew for its product, and in int8 that is a
quarter of the work."""


def rewrite_for_cpu(data: bytes, memory_queries: int | None = None, skip: Collection[str] = ()) -> bytes:
    """The same graph for ONNX Runtime on this machine's CPU.

    Args:
        data: of the file.
        memory_queries: of memory attention, in the graph that has it: the tokens of a frame.
        skip: names of rewrites that are not applied.

    Raises:
        BundleError: the data is no ONNX model.
    """
    file = OnnxFile(data)
    done = 0
    if "fuse_attention" not in skip:
        done += fuse_attention(file)
    if "fuse_int8_products" not in skip:
        done += fuse_int8_products(file, unsigned=platform.machine().lower() in X86)
    if memory_queries is not None and "split_queries" not in skip:
        # After the products: it moves them.
        done += split_queries(file, memory_queries)
    if not done:
        return data
    file.add_domain(DOMAIN, 1)
    return file.to_bytes()


def fuse_attention(file: OnnxFile, fewest_tokens: int = MIN_TOKENS) -> int:
    """Fuse every self-attention of so many tokens that has no bias; how many there were."""
    graph = _Links(file.nodes)
    replaced: dict[int, list[Node]] = {}
    for node in file.nodes:
        found = _attention(file, graph, node) if node.type == "Softmax" else None
        if found is None or found.tokens < fewest_tokens:
            continue
        name, channels = node.name, found.heads * found.width
        shape = file.add_constant(f"{name}:tokens", np.array([-1, found.tokens, channels], dtype=np.int64))
        flat = [f"{name}:{part}" for part in ("query", "key", "value")]
        reshapes = [
            Node("Reshape", [source, shape], [target], target)
            for source, target in zip((found.query, found.key, found.value), flat, strict=True)
        ]
        fused = Node(
            "MultiHeadAttention",
            flat,
            [f"{name}:answer"],
            f"{name}:fused",
            {"num_heads": found.heads, "scale": found.scale},
            DOMAIN,
        )
        last = found.last.between([f"{name}:answer", *found.last.inputs[1:]], found.last.outputs)
        replaced[id(found.last)] = [*reshapes, fused, last]
    _replace(file, replaced)
    return len(replaced)


class _Attention(NamedTuple):
    """Self-attention as it stands in a graph: three tensors (B, T, heads * width), and the Reshape at its end."""

    query: str
    key: str
    value: str
    heads: int
    tokens: int
    width: int
    scale: float
    last: Node


def _attention(file: OnnxFile, graph: _Links, softmax: Node) -> _Attention | None:
    """The attention around a Softmax, if it has the form that the exporter writes."""
    scores = graph.writer(softmax.inputs[0], "MatMul")
    answer = graph.only_reader(softmax.outputs[0], "MatMul")
    if scores is None or answer is None or answer.inputs[0] != softmax.outputs[0]:
        return None
    scaled = graph.writer(scores.inputs[0], "Mul")
    if scaled is None or graph.only_reader(scores.outputs[0]) is None:
        return None
    scale = file.constants.get(scaled.inputs[1])
    if scale is None or scale.shape != ():
        return None
    sources = [
        _heads_of(file, graph, tensor, order)
        for tensor, order in ((scaled.inputs[0], (0, 2, 1, 3)), (scores.inputs[1], (0, 2, 3, 1)))
    ] + [_heads_of(file, graph, answer.inputs[1], (0, 2, 1, 3))]
    back = graph.only_reader(answer.outputs[0], "Transpose")
    last = graph.only_reader(back.outputs[0], "Reshape") if back is not None else None
    if last is None or back is None or back.attributes.get("perm") != (0, 2, 1, 3):
        return None
    query, key, value = sources
    if query is None or key is None or value is None or not query[1] == key[1] == value[1]:
        return None
    tokens, heads, width = query[1]
    return _Attention(query[0], key[0], value[0], heads, tokens, width, float(scale.values), last)


def _heads_of(
    file: OnnxFile, graph: _Links, tensor: str, order: tuple[int, ...]
) -> tuple[str, tuple[int, int, int]] | None:
    """What was split into heads and transposed to `tensor`, with tokens, heads and channels of a head."""
    transpose = graph.writer(tensor, "Transpose")
    if transpose is None or transpose.attributes.get("perm") != order:
        return None
    reshape = graph.writer(transpose.inputs[0], "Reshape")
    shape = file.constants.get(reshape.inputs[1]) if reshape is not None else None
    if reshape is None or shape is None or shape.shape != (4,):
        return None
    _, tokens, heads, width = (int(size) for size in shape.values)
    return (reshape.inputs[0], (tokens, heads, width)) if min(tokens, heads, width) > 0 else None


def fuse_int8_products(file: OnnxFile, unsigned: bool) -> int:
    """Fuse every MatMul of two dequantized int8 factors, with the bias after it; how many there were.

    Args:
        file: is changed.
        unsigned: round first factors to uint8 with the zero at 128, which holds the same numbers.
    """
    graph = _Links(file.nodes)
    replaced: dict[int, list[Node]] = {}
    # Several multiplications read one activation: it is rounded once.
    rounded: dict[tuple[str, ...], str] = {}
    count = 0
    for node in file.nodes:
        found = _product(file, graph, node) if node.type == "MatMul" else None
        if found is None:
            continue
        made: list[Node] = []
        first, zero = found.first.outputs[0], ""
        if unsigned:
            source, zero = tuple(found.first.inputs[:2]), _zero(file)
            if source not in rounded:
                rounded[source] = f"{first}:uint8"
                made.append(Node("QuantizeLinear", [*source, zero], [rounded[source]], f"{found.first.name}:uint8"))
            first = rounded[source]
        inputs = [first, _second_factor(graph, found.right, made), found.left.inputs[1], found.right.inputs[1], zero]
        outputs = node.outputs
        bias = _bias(file, graph, node)
        if bias is not None:
            vector, add = bias
            inputs += ["", vector]
            outputs = add.outputs
            replaced[id(add)] = []
        made.append(Node("MatMulIntegerToFloat", inputs, outputs, f"{node.name}:int8", {}, DOMAIN))
        replaced[id(node)] = made
        count += 1
    _replace(file, replaced)
    return count


class _Product(NamedTuple):
    """What stands before a quantized MatMul."""

    first: Node
    """Rounds the first factor."""
    left: Node
    right: Node
    """Dequantize the factors."""


def _product(file: OnnxFile, graph: _Links, node: Node) -> _Product | None:
    left, right = (graph.writer(name, "DequantizeLinear") for name in node.inputs)
    if left is None or right is None or not (_is_symmetric(file, left) and _is_symmetric(file, right)):
        return None
    first = graph.writer(left.inputs[0], "QuantizeLinear")
    held = file.constants.get(right.inputs[0])
    if first is None or (held is None and graph.writer(right.inputs[0], "QuantizeLinear") is None):
        return None
    scale = file.constants[right.inputs[1]]
    if scale.shape != () and (held is None or scale.shape != held.shape[-1:] or right.attributes.get("axis") != 1):
        return None
    return _Product(first, left, right)


def _is_symmetric(file: OnnxFile, node: Node) -> bool:
    """Whether a DequantizeLinear takes int8 whose zero is 0."""
    zero = file.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    return (
        zero is not None and zero.values.dtype == np.int8 and not zero.values.any() and node.inputs[1] in file.constants
    )


def _zero(file: OnnxFile) -> str:
    name = "uint8:zero"
    return name if name in file.constants else file.add_constant(name, np.array(128, dtype=np.uint8))


def _second_factor(graph: _Links, right: Node, made: list[Node]) -> str:
    """The second factor in int8. A transpose before its rounding comes after it: bytes move faster than floats."""
    quantize = graph.writer(right.inputs[0], "QuantizeLinear")
    transpose = graph.writer(quantize.inputs[0], "Transpose") if quantize is not None else None
    if quantize is None or transpose is None or graph.only_reader(quantize.inputs[0]) is None:
        return right.inputs[0]
    rounded, turned = f"{quantize.outputs[0]}:rounded", f"{quantize.outputs[0]}:turned"
    made.append(quantize.between([transpose.inputs[0], *quantize.inputs[1:]], [rounded]))
    made.append(transpose.between([rounded], [turned]))
    return turned


def _bias(file: OnnxFile, graph: _Links, node: Node) -> tuple[str, Node] | None:
    """The constant vector that is added to a product that nothing else reads, and the Add."""
    add = graph.only_reader(node.outputs[0], "Add")
    if add is None:
        return None
    name = add.inputs[1] if add.inputs[0] == node.outputs[0] else add.inputs[0]
    vector = file.constants.get(name)
    weight = graph.writer(node.inputs[1], "DequantizeLinear")
    held = file.constants.get(weight.inputs[0]) if weight is not None else None
    if vector is None or held is None or vector.shape != held.shape[-1:]:
        return None
    return name, add


def split_queries(file: OnnxFile, tokens: int) -> int:
    """Split every attention with a bias over its keys into parts of few queries; how many there were.

    Args:
        file: is changed. Of its attentions, only memory cross-attention may have such a bias.
        tokens: queries, on the second axis of the first factor.
    """
    graph = _Links(file.nodes)
    replaced: dict[int, list[Node]] = {}
    count = 0
    for softmax in file.nodes:
        found = _biased_attention(graph, softmax) if softmax.type == "Softmax" else None
        if found is None:
            continue
        scores, biased, answer = found
        parts, rest = divmod(tokens, QUERIES_AT_ONCE[scores.type])
        if rest or parts < 2:
            continue
        queries = [f"{scores.inputs[0]}:part {part}" for part in range(parts)]
        made = [Node("Split", [scores.inputs[0]], queries, f"{softmax.name}:split", {"axis": 1})]
        for part, query in enumerate(queries):
            names = {name: f"{name}:part {part}" for node in (*found, softmax) for name in node.outputs}
            for node in (scores, biased, softmax, answer):
                inputs = [names.get(name, name) for name in node.inputs]
                if node is scores:
                    inputs[0] = query
                made.append(node.between(inputs, [names[node.outputs[0]]], f"{node.name}:part {part}"))
        answers = [f"{answer.outputs[0]}:part {part}" for part in range(parts)]
        made.append(Node("Concat", answers, answer.outputs, f"{softmax.name}:join", {"axis": 1}))
        replaced |= {id(node): [] for node in (scores, biased, softmax)}
        replaced[id(answer)] = made
        count += 1
    _replace(file, replaced)
    return count


def _biased_attention(graph: _Links, softmax: Node) -> tuple[Node, Node, Node] | None:
    """The product, the bias and the product with values around a Softmax, if it has a bias."""
    biased = graph.writer(softmax.inputs[0], "Add")
    answer = graph.only_reader(softmax.outputs[0], "MatMul")
    if biased is None or answer is None or answer.inputs[0] != softmax.outputs[0]:
        return None
    scores = graph.writer(biased.inputs[0], *QUERIES_AT_ONCE)
    if scores is None or graph.only_reader(scores.outputs[0]) is None:
        return None
    return scores, biased, answer


class _Links:
    """Who writes and who reads every tensor."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._writers = {output: node for node in nodes for output in node.outputs}
        self._readers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.inputs:
                self._readers[name].append(node)

    def writer(self, tensor: str, *kinds: str) -> Node | None:
        """The node of one of these types that writes a tensor."""
        node = self._writers.get(tensor)
        return node if node is not None and node.type in kinds else None

    def only_reader(self, tensor: str, kind: str | None = None) -> Node | None:
        """The only node that reads a tensor, if it has this type."""
        readers = self._readers[tensor]
        return readers[0] if len(readers) == 1 and kind in (None, readers[0].type) else None


def _replace(file: OnnxFile, replaced: dict[int, list[Node]]) -> None:
    """Put nodes in the place of others, and take out all that nothing reads any more."""
    nodes = [made for node in file.nodes for made in replaced.get(id(node), [node])]
    read = set(file.outputs)
    kept = []
    for node in reversed(nodes):
        if read & set(node.outputs):
            read |= set(node.inputs)
            kept.append(node)
    file.nodes = kept[::-1]
