"""Constant folding, fusion of common patterns and dead code elimination, by onnxslim."""

from __future__ import annotations

import onnx
import onnxslim

from etam_edge.exporters.passes.base import PassResult, copy_of


def simplify(model: onnx.ModelProto) -> PassResult:
    """Fold constants and remove what is redundant."""
    simplified = onnxslim.slim(copy_of(model))
    return PassResult(simplified, simplified != model)
