"""The interface of a pass over an ONNX model, and the edits that several passes need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import onnx

from etam_edge.bundle import OBJECTS


@dataclass(frozen=True)
class PassResult:
    """The result of a pass.

    Attributes:
        model: the model after the pass; the model that was given where nothing changed.
        changed: whether the pass changed anything.
    """

    model: onnx.ModelProto
    changed: bool


class Pass(Protocol):
    """Rewrites or checks a model. The model that it is given is never modified."""

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Run the pass.

        Raises:
            ExportError: the pass cannot be applied to this model, or the model does not pass the check.
        """


def run_passes(model: onnx.ModelProto, passes: Iterable[Pass]) -> PassResult:
    """Run passes one after another; `changed` says whether any of them changed the model."""
    changed = False
    for one in passes:
        result = one(model)
        model, changed = result.model, changed or result.changed
    return PassResult(model, changed)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def fix_objects(model: onnx.ModelProto, objects: int) -> None:
    """Give the object axis of a model's inputs and outputs a size, in place."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == OBJECTS:
                size.dim_value = objects


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace all nodes of a model, in place. `nodes` may contain nodes of the model itself."""
    # Deleting the nodes of a graph clears them, so they are copied first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """Attribute values of a node by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
