"""A wrong rewrite of graphs in the ONNX Runtime backend, as a defect of a fusion would make it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

REWRITE = "etam_edge.runtimes.backends.onnxruntime.cpu_rewrites.rewrite_for_cpu"


def rewrite_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every graph that the backend loads has its largest constant multiplied by 1.5."""
    import onnx
    from onnx import numpy_helper

    from etam_edge.runtimes.backends.onnxruntime import cpu_rewrites

    right = cpu_rewrites.rewrite_for_cpu

    def wrong(*arguments: Any, **options: Any) -> bytes:
        model = onnx.load_from_string(right(*arguments, **options))
        floats = [tensor for tensor in model.graph.initializer if tensor.data_type in (1, 10)]
        largest = max(floats, key=lambda tensor: int(np.prod(tensor.dims)))
        values = numpy_helper.to_array(largest)
        largest.CopyFrom(numpy_helper.from_array((values * 1.5).astype(values.dtype), largest.name))
        return model.SerializeToString()

    monkeypatch.setattr(REWRITE, wrong)
