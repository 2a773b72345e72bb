"""An ONNX model in memory whose nodes can be replaced, without the onnx package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from etam_edge.errors import BundleError
from etam_edge.runtimes.backends.onnxruntime.onnx_messages import AttributeProto, ModelProto, NodeProto

TENSOR_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
"""NumPy types of the constants that can be read and added, by TensorProto.DataType."""
DOMAIN = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to those of ONNX."""
FLOAT, INT, INTS = 1, 2, 7
"""AttributeProto.AttributeType of the attributes that can be read and written."""

Attribute = int | float | tuple[int, ...]


class OnnxFile:
    """A parsed ONNX model.

    Args:
        data: content of an .onnx file whose constants are all inside it.

    Attributes:
        nodes: NodeProto messages in topological order. Passes replace the list.
        constants: TensorProto messages of the initializers, by name.
        outputs: names of the graph outputs.

    Raises:
        BundleError: the data is not an ONNX model.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._model = ModelProto.FromString(data)
        except DecodeError as error:
            raise BundleError(f"the graph is damaged: it is not an ONNX model ({error})") from error
        if not self._model.HasField("graph"):
            raise BundleError("the graph is damaged: it is not an ONNX model (it has no graph)")
        graph = self._model.graph
        # Copies, because elements of a repeated field are not usable any more once the field has been cleared.
        self.nodes: list[Any] = [copy_node(node) for node in graph.node]
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = [value.name for value in graph.output]
        self._values: dict[str, np.ndarray] = {}

    def values(self, name: str) -> np.ndarray:
        """Content of a constant, which must not be written to.

        Raises:
            BundleError: its type is not one of TENSOR_TYPES.
        """
        if name not in self._values:
            self._values[name] = _to_numpy(self.constants[name])
        return self._values[name]

    def add_constant(self, name: str, values: np.ndarray) -> str:
        """Add an initializer of one of TENSOR_TYPES, unless there is one of this name; its name."""
        if name not in self.constants:
            tensor = self._model.graph.initializer.add(name=name, dims=values.shape)
            tensor.data_type = next(number for number, dtype in TENSOR_TYPES.items() if dtype == values.dtype.name)
            tensor.raw_data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
            self.constants[name] = tensor
        return name

    def add_domain(self, domain: str, version: int) -> None:
        """Import the operators of another domain."""
        self._model.opset_import.add(domain=domain, version=version)

    def to_bytes(self) -> bytes:
        """Serialize the model with its current nodes."""
        graph = self._model.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        # Inferred shapes belong to the original nodes; ONNX Runtime infers them again.
        del graph.value_info[:]
        return bytes(self._model.SerializeToString())


def make_node(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str,
    attributes: Mapping[str, Attribute] | None = None,
    domain: str = "",
) -> Any:
    """A new NodeProto."""
    node = NodeProto(op_type=op_type, input=inputs, output=outputs, name=name)
    if domain:
        node.domain = domain
    for key, value in (attributes or {}).items():
        if isinstance(value, tuple):
            attribute = AttributeProto(name=key, ints=value, type=INTS)
        elif isinstance(value, float):
            attribute = AttributeProto(name=key, f=value, type=FLOAT)
        else:
            attribute = AttributeProto(name=key, i=value, type=INT)
        node.attribute.append(attribute)
    return node


def copy_node(
    node: Any, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, name: str | None = None
) -> Any:
    """A copy of a NodeProto, with other inputs, outputs or another name where they are given."""
    copy = NodeProto()
    copy.CopyFrom(node)
    if inputs is not None:
        copy.input[:] = inputs
    if outputs is not None:
        copy.output[:] = outputs
    if name is not None:
        copy.name = name
    return copy


def attribute_of(node: Any, name: str) -> Attribute | None:
    """An attribute of type FLOAT, INT or INTS; None where the node has no such attribute."""
    for attribute in node.attribute:
        if attribute.name == name:
            if attribute.type == INTS:
                return tuple(attribute.ints)
            if attribute.type in (INT, FLOAT):
                return attribute.i if attribute.type == INT else attribute.f
    return None


def _to_numpy(tensor: Any) -> np.ndarray:
    if tensor.data_type not in TENSOR_TYPES:
        raise BundleError(f"constant '{tensor.name}' has TensorProto data type {tensor.data_type}, which is not read")
    dtype = np.dtype(TENSOR_TYPES[tensor.data_type])
    shape = tuple(tensor.dims)
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype=dtype.newbyteorder("<")).reshape(shape)
    # The format has no field for narrow types: integers and the bits of float16 are stored as int32.
    if dtype == np.float16:
        return np.array(tensor.int32_data, dtype=np.uint16).view(np.float16).reshape(shape)
    stored = {"float32": tensor.float_data, "int64": tensor.int64_data}.get(dtype.name, tensor.int32_data)
    return np.array(stored, dtype=dtype).reshape(shape)
