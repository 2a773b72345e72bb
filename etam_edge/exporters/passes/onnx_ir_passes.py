"""Passes that the onnx-ir package provides, with the interface of `Pass`."""

from __future__ import annotations

import onnx
import onnx_ir
from onnx_ir.passes import PassBase, Sequential, common

from etam_edge.exporters.passes.base import PassResult


class OnnxIrPass:
    """One or more passes of onnx-ir, run one after another."""

    def __init__(self, *passes: PassBase) -> None:
        self._passes = Sequential(*passes)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = self._passes(onnx_ir.from_proto(model))
        return PassResult(onnx_ir.to_proto(result.model), True) if result.modified else PassResult(model, False)


deduplicate_initializers = OnnxIrPass(common.DeduplicateHashedInitializersPass())
"""Keep one of every set of equal initializers. Tracing copies the rotation tables for every layer."""
sort_nodes = OnnxIrPass(common.TopologicalSortPass())
"""Order nodes so that each comes after the nodes whose outputs it reads."""
remove_identities = OnnxIrPass(common.IdentityEliminationPass())
"""Remove Identity nodes; their readers read the input instead."""
remove_unused = OnnxIrPass(common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass())
"""Remove nodes, initializers and operator domains that nothing uses."""
