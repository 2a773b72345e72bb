"""ONNX files, as far as rewriting their nodes needs: read and written without the onnx package.

A runtime may not need onnx, and what is read here is little: nodes, and constants where a rewrite asks for one. All
else is carried over byte by byte. The format is Protocol Buffers: fields of a number, a wire type and a value. The
numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from etam_edge.errors import BundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_GRAPH, MODEL_OPSET = 7, 8
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 12, 13
VALUE_NAME = 1
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_KIND = 1, 2, 3, 8, 20
KIND_FLOAT, KIND_INT, KIND_INTS = 1, 2, 7
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_INT32S, TENSOR_INT64S, TENSOR_NAME, TENSOR_RAW = 1, 2, 4, 5, 7, 8, 9
TENSOR_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}

Attribute = int | float | tuple[int, ...]


@dataclass
class Node:
    """One operation. `attributes` holds those that are numbers; `raw` is the node as it was read, if it was."""

    type: str
    inputs: list[str]
    outputs: list[str]
    name: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    raw: bytes | None = None

    @classmethod
    def read(cls, data: memoryview) -> Node:
        node = cls("", [], [], raw=bytes(data))
        for number, value in _fields(data):
            if number == NODE_INPUT:
                node.inputs.append(_text(value))
            elif number == NODE_OUTPUT:
                node.outputs.append(_text(value))
            elif number == NODE_NAME:
                node.name = _text(value)
            elif number == NODE_TYPE:
                node.type = _text(value)
            elif number == NODE_DOMAIN:
                node.domain = _text(value)
            elif number == NODE_ATTRIBUTE:
                node._read_attribute(value)
        return node

    def _read_attribute(self, data: memoryview) -> None:
        name, ints, kind = "", [], 0
        number_value: Attribute | None = None
        for number, value in _fields(data):
            if number == ATTRIBUTE_NAME:
                name = _text(value)
            elif number == ATTRIBUTE_FLOAT:
                number_value = float(struct.unpack("<f", value)[0])
            elif number == ATTRIBUTE_INT:
                number_value = _signed(value)
            elif number == ATTRIBUTE_INTS:
                ints += [_signed(value)] if isinstance(value, int) else [_signed(v) for v in _varints(value)]
            elif number == ATTRIBUTE_KIND:
                kind = value
        if kind == KIND_INTS:
            self.attributes[name] = tuple(ints)
        elif kind in (KIND_INT, KIND_FLOAT) and number_value is not None:
            self.attributes[name] = number_value

    def between(self, inputs: Sequence[str], outputs: Sequence[str], name: str | None = None) -> Node:
        """The same operation on other tensors."""
        made = Node(self.type, list(inputs), list(outputs), name or self.name, self.attributes, self.domain)
        if self.raw is not None:
            # A node's own fields are names and messages, so that all of them can be written as bytes again. Attributes
            # that are not read here are kept so.
            kept = [
                _encoded(number, value)
                for number, value in _fields(memoryview(self.raw))
                if number not in (NODE_INPUT, NODE_OUTPUT, NODE_NAME)
            ]
            made.raw = b"".join((*made._encoded_names(), *kept))
        return made

    def encoded(self) -> bytes:
        if self.raw is not None:
            return self.raw
        parts = [*self._encoded_names(), _encoded(NODE_TYPE, self.type.encode())]
        parts += [_encoded(NODE_ATTRIBUTE, _attribute(name, value)) for name, value in self.attributes.items()]
        if self.domain:
            parts.append(_encoded(NODE_DOMAIN, self.domain.encode()))
        return b"".join(parts)

    def _encoded_names(self) -> list[bytes]:
        inputs = [_encoded(NODE_INPUT, name.encode()) for name in self.inputs]
        outputs = [_encoded(NODE_OUTPUT, name.encode()) for name in self.outputs]
        return [*inputs, *outputs, _encoded(NODE_NAME, self.name.encode())]


@dataclass
class Constant:
    """A tensor that the file holds."""

    data: memoryview
    name: str
    shape: tuple[int, ...]
    kind: int

    @classmethod
    def read(cls, data: memoryview) -> Constant:
        name, kind, shape = "", 0, []
        for number, value in _fields(data):
            if number == TENSOR_NAME:
                name = _text(value)
            elif number == TENSOR_TYPE:
                kind = value
            elif number == TENSOR_DIMS:
                shape += [value] if isinstance(value, int) else list(_varints(value))
        return cls(data, name, tuple(shape), kind)

    @cached_property
    def values(self) -> np.ndarray:
        """The content, of one of TENSOR_TYPES.

        Raises:
            BundleError: it is of another type.
        """
        if self.kind not in TENSOR_TYPES:
            raise BundleError(f"constant '{self.name}' has a type that is not read here ({self.kind})")
        dtype = np.dtype(TENSOR_TYPES[self.kind])
        numbers: list[float] = []
        for number, value in _fields(self.data):
            if number == TENSOR_RAW:
                return np.frombuffer(value, dtype=dtype.newbyteorder("<")).reshape(self.shape)
            if number in (TENSOR_INT32S, TENSOR_INT64S):
                numbers += [_signed(v) for v in ([value] if isinstance(value, int) else _varints(value))]
            elif number == TENSOR_FLOATS:
                numbers += struct.unpack(f"<{len(value) // 4}f", value)
        return np.array(numbers, dtype=dtype).reshape(self.shape)


class OnnxFile:
    """A model whose nodes can be replaced.

    Args:
        data: of the file.

    Attributes:
        nodes: in an order in which they can run.
        constants: by name.
        outputs: names of the tensors that the graph answers.

    Raises:
        BundleError: the data is no ONNX model.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._model = list(_fields(memoryview(data)))
            graph = [value for number, value in self._model if number == MODEL_GRAPH]
            self._graph = list(_fields(graph[0]))
            self.nodes = [Node.read(value) for number, value in self._graph if number == GRAPH_NODE]
            constants = [Constant.read(value) for number, value in self._graph if number == GRAPH_INITIALIZER]
            answers = [value for number, value in self._graph if number == GRAPH_OUTPUT]
            self.outputs = [_text(v) for answer in answers for number, v in _fields(answer) if number == VALUE_NAME]
        except (IndexError, ValueError, TypeError, struct.error) as error:
            raise BundleError(f"the graph is damaged: it is no ONNX model ({error})") from error
        self.constants = {constant.name: constant for constant in constants}
        self._added: list[bytes] = []

    def add_constant(self, name: str, values: np.ndarray) -> str:
        """A new constant of one of TENSOR_TYPES; its name."""
        kind = next(number for number, dtype in TENSOR_TYPES.items() if dtype == values.dtype.name)
        data = b"".join(_encoded(TENSOR_DIMS, size) for size in values.shape)
        data += _encoded(TENSOR_TYPE, kind) + _encoded(TENSOR_NAME, name.encode())
        data += _encoded(TENSOR_RAW, np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
        self._added.append(data)
        self.constants[name] = Constant.read(memoryview(data))
        return name

    def add_domain(self, domain: str, version: int) -> None:
        """Operators of another domain may be used."""
        self._model.append((MODEL_OPSET, memoryview(_encoded(1, domain.encode()) + _encoded(2, version))))

    def to_bytes(self) -> bytes:
        """The model with its nodes as they are now."""
        # Shapes that were written down belong to the nodes that were; a runtime infers them anew.
        dropped = (GRAPH_NODE, GRAPH_VALUE_INFO)
        graph = [_encoded(GRAPH_NODE, node.encoded()) for node in self.nodes]
        graph += [_encoded(number, value) for number, value in self._graph if number not in dropped]
        graph += [_encoded(GRAPH_INITIALIZER, data) for data in self._added]
        body = b"".join(graph)
        return b"".join(_encoded(n, body if n == MODEL_GRAPH else value) for n, value in self._model)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of every field: an int, or the bytes of what is not a varint."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value: int | memoryview
            value, place = _varint(data, place)
        else:
            if wire == BYTES:
                size, place = _varint(data, place)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire}")
            if place + size > end:
                raise ValueError("a field ends beyond the data")
            value = data[place : place + size]
            place += size
        yield number, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _to_varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _encoded(number: int, value: int | bytes | memoryview) -> bytes:
    if isinstance(value, int):
        return _to_varint(number << 3 | VARINT) + _to_varint(value)
    return b"".join((_to_varint(number << 3 | BYTES), _to_varint(len(value)), value))


def _attribute(name: str, value: Attribute) -> bytes:
    data = _encoded(ATTRIBUTE_NAME, name.encode())
    if isinstance(value, tuple):
        return data + b"".join(_encoded(ATTRIBUTE_INTS, v) for v in value) + _encoded(ATTRIBUTE_KIND, KIND_INTS)
    if isinstance(value, float):
        fixed = _to_varint(ATTRIBUTE_FLOAT << 3 | FIXED32) + struct.pack("<f", value)
        return data + fixed + _encoded(ATTRIBUTE_KIND, KIND_FLOAT)
    return data + _encoded(ATTRIBUTE_INT, value) + _encoded(ATTRIBUTE_KIND, KIND_INT)
