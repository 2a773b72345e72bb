"""Every graph answers the samples of a recording before its bundle counts as made."""

from __future__ import annotations

from typing import Any

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.calibration.recording import Recording
from etam_edge.errors import ExportError
from etam_edge.runtimes.backends.onnxruntime.backend import import_onnxruntime


def try_graphs(bundle: Bundle, recording: Recording) -> None:
    """
    Raises:
        ExportError: a graph answers NaN or infinity to a sample.
    """
    ort: Any = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, entry in bundle.manifest.graphs.items():
        session = ort.InferenceSession(str(bundle.graph_path(name)), options, providers=["CPUExecutionProvider"])
        types = {tensor.name: tensor.dtype for tensor in entry.signature.inputs}
        for sample, inputs in zip(recording.samples[name], recording.inputs(name), strict=True):
            answers = session.run(None, {key: value.astype(types[key]) for key, value in inputs.items()})
            for tensor, answer in zip(entry.signature.outputs, answers, strict=True):
                if not np.isfinite(answer).all():
                    raise ExportError(
                        f"graph '{name}' answers NaN or infinity ({tensor.name}) to frame {sample.frame} of "
                        f"{sample.clip}; keep more regions in fp32 with --region NAME=fp32"
                    )
