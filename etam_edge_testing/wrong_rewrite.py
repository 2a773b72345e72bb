"""A wrong rewrite of graphs in the ONNX Runtime backend, as a defect of a fusion would make it."""

from __future__ import annotations

from typing import Any

import pytest


def rewrite_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, layer norms of graphs that the backend loads on a CPU have scales that are 1.5 times too large."""
    import onnx
    from onnx import numpy_helper

    from etam_edge.runtimes.backends.onnxruntime import cpu_rewrites

    right = cpu_rewrites.rewrite_for_cpu

    def wrong(*arguments: Any, **options: Any) -> bytes:
        model = onnx.load_from_string(right(*arguments, **options))
        scales = {node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"}
        for tensor in model.graph.initializer:
            if tensor.name in scales:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array((values * 1.5).astype(values.dtype), tensor.name))
        return model.SerializeToString()

    monkeypatch.setattr(cpu_rewrites, "rewrite_for_cpu", wrong)
