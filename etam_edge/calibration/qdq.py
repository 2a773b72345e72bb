"""int8 by the ranges of a recording."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from etam_edge.calibration.ranges import Ranges
from etam_edge.errors import InputError
from etam_edge.exporters.passes.base import run_passes
from etam_edge.exporters.passes.insert_qdq import InsertQdq
from etam_edge.exporters.passes.isolate_inputs import SUFFIX, IsolateInputs
from etam_edge.exporters.passes.onnx_ir_passes import remove_identities, remove_unused, sort_nodes
from etam_edge.exporters.passes.split_gemm import SplitGemm


class QdqQuantizer:
    """Quantizes graphs of a bundle by measured ranges. A `Quantizer` of `exporters.precision`.

    Args:
        ranges: (smallest, largest) by graph and tensor, of the fp32 bundle.
    """

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges

    def __call__(self, graph: str, model: onnx.ModelProto, nodes: Sequence[str]) -> onnx.ModelProto:
        """The graph with Q/DQ pairs before both factors of the named nodes, and nowhere else.

        Args:
            graph: name of the graph.
            model: float32 throughout; not modified.
            nodes: names of Conv, MatMul and Gemm nodes.

        Raises:
            InputError: the ranges lack a tensor that one of the nodes reads.
        """
        constants = {tensor.name for tensor in model.graph.initializer}
        selected = set(nodes)
        activations = {
            name
            for node in model.graph.node
            if node.name in selected
            for name in node.input[:2]
            if name not in constants
        }
        ranges = self._ranges[graph]
        missing = sorted(name for name in activations if name not in ranges)
        if missing:
            raise InputError(f"the recording has no range of {missing[0]} in graph '{graph}'; record it again")
        passes = (
            SplitGemm(nodes),
            IsolateInputs(nodes),
            InsertQdq(nodes, {f"{name}{SUFFIX}": ranges[name] for name in activations}),
            sort_nodes,
            remove_identities,
            remove_unused,
        )
        return run_passes(model, passes).model
