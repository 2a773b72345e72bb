"""Graphs of a newer opset."""

from __future__ import annotations

import onnx
from onnx_ir.passes import common

from etam_edge.exporters.passes.base import PassResult
from etam_edge.exporters.passes.onnx_ir_passes import OnnxIrPass

_constants_to_initializers = OnnxIrPass(
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0), common.RemoveUnusedNodesPass()
)


class RaiseOpset:
    """Convert a graph to a newer opset. What attributes became inputs is stored as an initializer.

    Args:
        opset: to convert to.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        if opset_of(model) >= self.opset:
            return PassResult(model, False)
        converted = onnx.version_converter.convert_version(model, self.opset)
        return PassResult(_constants_to_initializers(converted).model, True)


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of a model's standard operators."""
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))
