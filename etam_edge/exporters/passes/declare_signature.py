"""Declared shapes of a graph's inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from etam_edge.bundle import GraphSignature
from etam_edge.errors import ExportError
from etam_edge.exporters.passes.base import PassResult, copy_of


class DeclareSignature:
    """Write the shapes of a signature to the inputs and outputs of a graph.

    Tracing names the object axis of an output as it pleases, or not at all.

    Args:
        signature: names, types and shapes that the graph has to have.

    Raises:
        ExportError: the graph has inputs or outputs of other names or types.
    """

    def __init__(self, signature: GraphSignature) -> None:
        self.signature = signature

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = copy_of(model)
        for declared, tensors in (
            (result.graph.input, self.signature.inputs),
            (result.graph.output, self.signature.outputs),
        ):
            names, expected = [value.name for value in declared], [tensor.name for tensor in tensors]
            if names != expected:
                raise ExportError(
                    f"the traced graph has {names}, expected {expected}; this is a defect of the exporter"
                )
            for value, tensor in zip(declared, tensors, strict=True):
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
                if value.type.tensor_type.elem_type != kind:
                    raise ExportError(
                        f"'{value.name}' was not traced as {tensor.dtype}; this is a defect of the exporter"
                    )
                value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(tensor.shape)))
        return PassResult(result, result != model)
