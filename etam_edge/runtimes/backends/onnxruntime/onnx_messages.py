"""Protocol Buffers messages of the ONNX format, as far as rewriting graphs needs them, without the onnx package.

ONNX Runtime depends on `protobuf` and not on `onnx`. The messages are declared here with the field numbers of the
public onnx.proto. Fields that are not declared (the graph's inputs, nested graphs, metadata) are unknown fields to
`protobuf`, which keeps them when it parses, copies and serializes a message. The messages live in a descriptor pool of
their own, so that the onnx package can be imported in the same process.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "etam_edge.onnx"
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "AttributeProto": {
        1: ("name", "string"),
        2: ("f", "float"),
        3: ("i", "int64"),
        8: ("ints", "repeated int64"),
        20: ("type", "int32"),
    },
    "NodeProto": {
        1: ("input", "repeated string"),
        2: ("output", "repeated string"),
        3: ("name", "string"),
        4: ("op_type", "string"),
        5: ("attribute", "repeated AttributeProto"),
        7: ("domain", "string"),
    },
    "TensorProto": {
        1: ("dims", "repeated int64"),
        2: ("data_type", "int32"),
        4: ("float_data", "repeated float"),
        5: ("int32_data", "repeated int32"),
        7: ("int64_data", "repeated int64"),
        8: ("name", "string"),
        9: ("raw_data", "bytes"),
    },
    "DimensionProto": {1: ("dim_value", "int64")},
    "TensorShapeProto": {1: ("dim", "repeated DimensionProto")},
    "TensorTypeProto": {1: ("elem_type", "int32"), 2: ("shape", "TensorShapeProto")},
    "TypeProto": {1: ("tensor_type", "TensorTypeProto")},
    "ValueInfoProto": {1: ("name", "string"), 2: ("type", "TypeProto")},
    "GraphProto": {
        1: ("node", "repeated NodeProto"),
        2: ("name", "string"),
        5: ("initializer", "repeated TensorProto"),
        11: ("input", "repeated ValueInfoProto"),
        12: ("output", "repeated ValueInfoProto"),
        13: ("value_info", "repeated ValueInfoProto"),
    },
    "OperatorSetIdProto": {1: ("domain", "string"), 2: ("version", "int64")},
    "ModelProto": {
        1: ("ir_version", "int64"),
        7: ("graph", "GraphProto"),
        8: ("opset_import", "repeated OperatorSetIdProto"),
    },
}
"""Fields of every message by number: name, and type in the notation of .proto files. Enumerations are declared as
int32, which a file stores in the same way. Names of nested messages differ from those of onnx.proto; they are not
stored."""
_SCALARS = {
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}


def _message_classes() -> dict[str, Any]:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="etam_edge/onnx.proto", package=PACKAGE, syntax="proto2")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, (name, declared) in fields.items():
            *repeated, kind = declared.split()
            field = message.field.add(name=name, number=number)
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _message_classes()
AttributeProto: Any = _CLASSES["AttributeProto"]
NodeProto: Any = _CLASSES["NodeProto"]
TensorProto: Any = _CLASSES["TensorProto"]
ModelProto: Any = _CLASSES["ModelProto"]
