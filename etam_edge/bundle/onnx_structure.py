"""What an ONNX file is made of, as far as it decides whether a bundle may be run: read without onnx and protobuf.

A bundle is loaded where neither is installed. Its graphs are static: they have no control flow, which could run for
ever, and all their weights are inside the file, which the hash in the manifest covers. External data would be read from
another file, without a hash.

The format is Protocol Buffers: a message is a sequence of numbered fields, and a field that holds a message or bytes
states its length, so that weights are skipped and not read. Numbers of fields are those of the public onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from etam_edge.bundle.signatures import GraphSignature, TensorSpec
from etam_edge.regular_files import open_regular

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""NumPy names of TensorProto.DataType."""
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_OP_TYPE, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2, 1, 1, 2
_DIMENSION, _DIMENSION_VALUE, _DIMENSION_NAME = 1, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

_Data = bytes | mmap.mmap
_Span = tuple[int, int]


@dataclass
class OnnxStructure:
    """What was found in an ONNX file.

    Attributes:
        signature: inputs and outputs of the graph.
        problems: why the graph must not be run, a phrase each.
    """

    signature: GraphSignature
    problems: list[str] = field(default_factory=list)


def read_structure(path: Path) -> OnnxStructure:
    """Read the structure of an ONNX file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an ONNX model.
    """
    with open_regular(path) as file:
        if not file.read(1):
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data, (0, len(data)))


def _model(data: _Data, span: _Span) -> OnnxStructure:
    graphs, problems = [], []
    for number, value in _fields(data, span):
        if number == _MODEL_GRAPH and isinstance(value, tuple):
            graphs.append(value)
        elif number == _MODEL_FUNCTIONS:
            problems.append("it defines functions of its own")
        elif number == _MODEL_TRAINING:
            problems.append("it holds training information")
    if len(graphs) != 1:
        raise ValueError(f"it has {len(graphs) or 'no'} graph{'s' if len(graphs) > 1 else ''}")
    inputs, outputs = [], []
    for number, value in _fields(data, graphs[0]):
        if not isinstance(value, tuple):
            continue
        if number == _GRAPH_NODE:
            problems += _node_problems(data, value)
        elif number == _GRAPH_INITIALIZER:
            problems += _tensor_problems(data, value)
        elif number == _GRAPH_SPARSE:
            problems.append("it holds sparse weights")
        elif number == _GRAPH_INPUT:
            inputs.append(_value_info(data, value))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_value_info(data, value))
    return OnnxStructure(GraphSignature(tuple(inputs), tuple(outputs)), list(dict.fromkeys(problems)))


def _node_problems(data: _Data, span: _Span) -> Iterator[str]:
    for number, value in _fields(data, span):
        if not isinstance(value, tuple):
            continue
        if number == _NODE_OP_TYPE:
            if (kind := _text(data, value)) in CONTROL_FLOW:
                yield f"it has control flow ({kind})"
        elif number == _NODE_ATTRIBUTE:
            for part, content in _fields(data, value):
                if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    yield "it has a graph inside a node"
                elif part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(content, tuple):
                    yield from _tensor_problems(data, content)


def _tensor_problems(data: _Data, span: _Span) -> Iterator[str]:
    for number, value in _fields(data, span):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            yield "its weights are in another file (external data)"


def _value_info(data: _Data, span: _Span) -> TensorSpec:
    name, dtype, shape = "", "no tensor", list[int | str]()
    for number, value in _fields(data, span):
        if number == _VALUE_NAME and isinstance(value, tuple):
            name = _text(data, value)
        elif number == _VALUE_TYPE and isinstance(value, tuple):
            for kind, tensor in _fields(data, value):
                if kind != _TYPE_TENSOR or not isinstance(tensor, tuple):
                    continue
                for part, content in _fields(data, tensor):
                    if part == _TENSOR_ELEMENT and isinstance(content, int):
                        dtype = _TYPES.get(content, f"type {content}")
                    elif part == _TENSOR_SHAPE and isinstance(content, tuple):
                        shape += _shape(data, content)
    return TensorSpec(name, dtype, tuple(shape))


def _shape(data: _Data, span: _Span) -> Iterator[int | str]:
    for number, dimension in _fields(data, span):
        if number == _DIMENSION and isinstance(dimension, tuple):
            size: int | str = "?"
            for part, content in _fields(data, dimension):
                if part == _DIMENSION_VALUE and isinstance(content, int):
                    size = content
                elif part == _DIMENSION_NAME and isinstance(content, tuple):
                    size = _text(data, content)
            yield size


def _text(data: _Data, span: _Span) -> str:
    return data[span[0] : span[1]].decode("utf-8", errors="replace")


def _fields(data: _Data, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """Number and value of every field of a message: an integer, or where its bytes begin and end.

    Raises:
        ValueError: the bytes are no message.
    """
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("it is not an ONNX model")
        if number == 0 or size > end - at:
            raise ValueError("it is not an ONNX model, or is cut short")
        yield number, (at, at + size)
        at += size


def _varint(data: _Data, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("it is not an ONNX model, or is cut short")
