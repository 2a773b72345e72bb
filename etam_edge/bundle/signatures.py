"""Graphs of a bundle, and the names, dtypes and shapes of their inputs and outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

GRAPH_NAMES = ("encode", "prompt", "remember", "track")
OBJECTS = "objects"
"""Name of the only dimension that is not a number: the leading axis of objects."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of one input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, objects: int) -> tuple[int, ...]:
        """The shape for a number of objects."""
        return tuple(objects if size == OBJECTS else int(size) for size in self.shape)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TensorSpec:
        return cls(fields["name"], fields["dtype"], tuple(fields["shape"]))


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of a graph, in the order in which the ONNX file lists them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> GraphSignature:
        inputs, outputs = (tuple(map(TensorSpec.from_dict, fields[name])) for name in ("inputs", "outputs"))
        return cls(inputs, outputs)


@dataclass(frozen=True)
class GraphEntry:
    """One graph of a bundle.

    Attributes:
        file: path of the ONNX file, relative to the bundle.
        sha256: of the file, in hexadecimal.
        opset: of the ONNX operators.
        signature: inputs and outputs.
        extra: fields of the manifest that this version does not know.
    """

    file: str
    sha256: str
    opset: int
    signature: GraphSignature
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""
        fields = asdict(self)
        return fields | fields.pop("extra")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> GraphEntry:
        """
        Raises:
            KeyError, TypeError, ValueError: a field is missing or of another type.
        """
        known = ("file", "sha256", "opset", "signature")
        return cls(
            file=str(fields["file"]),
            sha256=str(fields["sha256"]),
            opset=int(fields["opset"]),
            signature=GraphSignature.from_dict(fields["signature"]),
            extra={name: value for name, value in fields.items() if name not in known},
        )
