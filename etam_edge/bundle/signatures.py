"""Graphs of a bundle, and the names, dtypes and shapes of their inputs and outputs."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from etam_edge.errors import shown
from etam_edge.json_fields import check_fields, is_text
from etam_edge.regular_files import MAX_NAME
from etam_edge.spec import MASK_TOKENS, UNPOOLED_SLOTS, GraphSizes, ModelSpec

GRAPH_NAMES = ("encode", "prompt", "remember", "track")
OBJECTS = "objects"
"""Name of the only dimension that is not a number: the leading axis of objects."""
DTYPES = ("float32", "float16", "uint8", "int32")
PASSED = (
    ("image_features", "conditioned_features", "features"),
    ("memory_keys", "unpooled_keys", "bank_keys"),
    ("memory_values", "unpooled_values", "bank_values"),
)
"""Tensors that one graph writes and another reads, those of one type together; they may be float16. All other inputs
and outputs are read or written by the host, and are float32 or integers."""
ADDED = ("candidate_logits", "candidate_ious")
"""Outputs that bundles of version 0.1.0 do not have."""
MAX_SIZE = 1 << 31
MAX_RANK, MAX_TENSORS = 8, 64


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of one input or output of a graph."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, objects: int) -> tuple[int, ...]:
        """The shape for a number of objects."""
        return tuple(objects if size == OBJECTS else int(size) for size in self.shape)

    def nbytes(self, objects: int) -> int:
        """Size in bytes for a number of objects."""
        # Without NumPy, which the command line's help does not load: names of types end in their number of bits.
        bits = int("".join(filter(str.isdigit, self.dtype)) or 8)
        return math.prod(self.sized(objects)) * bits // 8

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TensorSpec:
        """
        Raises:
            KeyError, TypeError, ValueError: a field is missing, of another type or out of bounds.
        """
        name, dtype, shape = fields["name"], fields["dtype"], fields["shape"]
        if not isinstance(name, str) or not is_text(name) or dtype not in DTYPES:
            raise ValueError(f"a tensor is named {shown(name)} and has type {shown(dtype)}")
        sizes = shape if isinstance(shape, list | tuple) and len(shape) <= MAX_RANK else [None]
        if not all(size == OBJECTS or (type(size) is int and 0 < size < MAX_SIZE) for size in sizes):
            raise ValueError(f"tensor {shown(name)} has shape {shown(shape)}")
        return cls(name, dtype, tuple(shape))


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of a graph, in the order in which the ONNX file lists them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def sized(self, objects: int) -> GraphSignature:
        """The signature for a number of objects."""
        inputs, outputs = (
            tuple(TensorSpec(one.name, one.dtype, one.sized(objects)) for one in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        return GraphSignature(inputs, outputs)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> GraphSignature:
        for name in ("inputs", "outputs"):
            if not isinstance(fields[name], list) or len(fields[name]) > MAX_TENSORS:
                raise ValueError(f"{name} of a graph are {shown(fields[name])}, no list of tensors")
        inputs, outputs = (tuple(map(TensorSpec.from_dict, fields[name])) for name in ("inputs", "outputs"))
        return cls(inputs, outputs)

    def differences(self, other: GraphSignature) -> list[str]:
        """Names of inputs and outputs that differ in order, type or shape, or that only one of the two has."""
        pairs = [(mine, theirs) for mine, theirs in ((self.inputs, other.inputs), (self.outputs, other.outputs))]
        differing = {tensor.name for mine, theirs in pairs for tensor in {*mine} ^ {*theirs}}
        return sorted(differing) or (["their order"] if any(mine != theirs for mine, theirs in pairs) else [])


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
        check_fields(cls, {name: fields[name] for name in known})
        if len(fields["file"]) > MAX_NAME:
            raise ValueError(f"file is {shown(fields['file'])}, of {len(fields['file'])} characters")
        if not re.fullmatch("[0-9a-f]{64}", fields["sha256"]):
            raise ValueError(f"sha256 is {shown(fields['sha256'])}, not a hash of 64 hexadecimal digits")
        return cls(
            file=fields["file"],
            sha256=fields["sha256"],
            opset=fields["opset"],
            signature=GraphSignature.from_dict(fields["signature"]),
            extra={name: value for name, value in fields.items() if name not in known},
        )


Shape = tuple[int | str, ...]


def _tensors(*rows: tuple[str, str, Shape]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*row) for row in rows)


def graph_signatures(spec: ModelSpec, sizes: GraphSizes) -> dict[str, GraphSignature]:
    """Names, types and shapes of the inputs and outputs of every graph in fp32, by the graph's name."""
    n, c, m, s, low = OBJECTS, spec.width, spec.memory_width, spec.grid, spec.mask_size
    layers, tokens, slots = spec.memory_layers, spec.memory_tokens, sizes.slots(spec)
    pointers, points = sizes.pointer_slots(spec), sizes.max_points
    height, width = sizes.frame_size or (spec.image_size, spec.image_size)
    frame_features = ("image_features", "float32", (1, c, s, s))
    segmentation = [
        ("mask_logits", "float32", (n, low, low)),
        ("iou", "float32", (n,)),
        ("object_score", "float32", (n,)),
        ("object_pointer", "float32", (n, c)),
        ("mask_choice", "int32", (n,)),
    ]
    # Not reduced to one mask and not emptied by the object score, for the segmentation of images.
    candidates = [
        ("candidate_logits", "float32", (n, MASK_TOKENS, low, low)),
        ("candidate_ious", "float32", (n, MASK_TOKENS)),
    ]
    entry = [("memory_keys", "float32", (n, layers, tokens, c)), ("memory_values", "float32", (n, tokens, m))]
    unpooled = [
        ("unpooled_keys", "float32", (n, UNPOOLED_SLOTS, layers, tokens, c)),
        ("unpooled_values", "float32", (n, UNPOOLED_SLOTS, tokens, m)),
    ]
    masks = [("masks", "uint8", (n, height, width))] if sizes.frame_size else []
    return {
        "encode": GraphSignature(
            inputs=_tensors(("frame", "uint8", (1, height, width, 3))),
            outputs=_tensors(frame_features),
        ),
        "prompt": GraphSignature(
            inputs=_tensors(
                ("features", "float32", (n, c, s, s)),
                ("without_memory", "float32", (n,)),
                ("points", "float32", (n, points, 2)),
                ("labels", "int32", (n, points)),
                ("mask_source", "int32", (n,)),
                ("previous_logits", "float32", (n, low, low)),
                ("mask", "uint8", (n, spec.image_size, spec.image_size)),
                ("multimask", "int32", (n,)),
            ),
            outputs=_tensors(*segmentation, *candidates),
        ),
        "remember": GraphSignature(
            inputs=_tensors(frame_features, ("mask_logits", "float32", (n, low, low))),
            outputs=_tensors(*entry, *(unpooled if spec.pooled else [])),
        ),
        "track": GraphSignature(
            inputs=_tensors(
                frame_features,
                ("bank_keys", "float32", (n, slots, layers, tokens, c)),
                ("bank_values", "float32", (n, slots, tokens, m)),
                ("time_codes", "int32", (n, slots)),
                ("slot_bias", "float32", (n, slots)),
                ("bank_pointers", "float32", (n, pointers, c)),
                ("pointer_bias", "float32", (n, pointers)),
            ),
            outputs=_tensors(*segmentation, *entry, ("conditioned_features", "float32", (n, c, s, s)), *masks),
        ),
    }


def signature_problems(signatures: dict[str, GraphSignature], spec: ModelSpec, sizes: GraphSizes) -> list[str]:
    """What is wrong with the signatures of a bundle of this model, in any precision; empty if nothing is.

    Other signatures would be read and written outside their memory.
    """
    problems = []
    dtypes: dict[str, set[str]] = {}
    passed = {name for names in PASSED for name in names}
    for graph, expected in graph_signatures(spec, sizes).items():
        found = signatures[graph]
        tensors = (*found.inputs, *found.outputs)
        if not any(tensor.name in ADDED for tensor in tensors):
            outputs = tuple(tensor for tensor in expected.outputs if tensor.name not in ADDED)
            expected = GraphSignature(expected.inputs, outputs)
        for tensor in tensors:
            dtypes.setdefault(tensor.name, set()).add(tensor.dtype)
        wide = GraphSignature(*(tuple(map(_widened, side)) for side in (found.inputs, found.outputs)))
        differing = expected.differences(wide)
        differing += [tensor.name for tensor in tensors if tensor.dtype == "float16" and tensor.name not in passed]
        if differing:
            problems.append(f"{', '.join(differing[:4])} of graph '{graph}'")
    for names in PASSED:
        if len(set().union(*(dtypes.get(name, set()) for name in names))) > 1:
            problems.append(f"the types of {', '.join(names)}, which graphs pass on")
    return problems


def _widened(tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, "float32" if tensor.dtype == "float16" else tensor.dtype, tensor.shape)
