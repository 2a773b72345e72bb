"""The last check of a derived bundle: its graphs run on the samples of a recording, in the backend that runs them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from etam_edge.bundle import MANIFEST, Bundle
from etam_edge.calibration.recording import Recording
from etam_edge.errors import ExportError
from etam_edge.runtimes.answer import bundle_answer
from etam_edge.runtimes.backends.arrays import run_on_arrays
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend, import_onnxruntime

COMPARED = 5
"""Samples of each graph, spread over the recording, that are compared with the graph as it is in the file."""
TOLERANCE = 0.05
"""Largest median of the relative difference between the two, for each float output.

Rounding in another order changes outputs by less than 0.002 (etam_nano in int8, mixed and fp16); a near-tie between two
mask candidates changes them by more, but in few samples. A wrong rewrite changes all samples, typically by half of an
output's size, and int8 products that saturate change memory keys by 0.04 to 0.11."""


def try_graphs(bundle: Bundle, recording: Recording) -> None:
    """Run every sample in the ONNX Runtime backend on the CPU.

    Every output has to be finite. Some samples are also compared with the outputs of the file itself, run operator by
    operator without rewriting: the backend must not change what the graph computes.

    Raises:
        ExportError: an output is NaN or infinite, or the backend's outputs differ from those of the file.
    """
    backend = OnnxRuntimeBackend(bundle, provider="cpu")
    for name, entry in bundle.manifest.graphs.items():
        samples = recording.samples[name]
        compared = set(np.linspace(0, len(samples) - 1, min(COMPARED, len(samples))).round().astype(int).tolist())
        plain = _plain_session(bundle, name)
        floats = (tensor.name for tensor in entry.signature.outputs if tensor.dtype.startswith("float"))
        differences: dict[str, list[float]] = {tensor: [] for tensor in floats}
        for index, (sample, inputs) in enumerate(zip(samples, recording.inputs(name), strict=True)):
            outputs = run_on_arrays(backend, name, entry.signature, inputs)
            for tensor, values in outputs.items():
                if not np.isfinite(values).all():
                    raise ExportError(
                        f"graph '{name}' outputs NaN or infinity ({tensor}) on frame {sample.frame} of {sample.clip}; "
                        'keep more regions in fp32 with `regions={"NAME": "fp32"}`'
                    )
            if index in compared:
                typed = {tensor.name: inputs[tensor.name].astype(tensor.dtype) for tensor in entry.signature.inputs}
                for tensor, expected in zip(differences, plain.run(list(differences), typed), strict=True):
                    differences[tensor].append(_relative_difference(outputs[tensor], expected))
        for tensor, found in differences.items():
            if np.median(found) > TOLERANCE:
                raise ExportError(
                    f"graph '{name}' computes other values in the ONNX Runtime backend than operator by operator "
                    f"({tensor} differs by {np.median(found):.2g} of its size); this is a defect of the backend"
                )


def _plain_session(bundle: Bundle, graph: str) -> Any:
    """A session that runs a graph as it is in the file: not rewritten, and not optimised by ONNX Runtime."""
    ort: Any = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(bundle.graph_path(graph)), options, providers=["CPUExecutionProvider"])


def _relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, divided by that of the expected values or by 1, whichever is larger."""
    wanted = expected.astype(np.float64)
    size = max(1.0, float(np.sqrt(np.mean(wanted**2))))
    return float(np.sqrt(np.mean((actual.astype(np.float64) - wanted) ** 2))) / size


def store_answer(bundle: Bundle) -> Bundle:
    """Write the answer of the bundle's own graphs (`etam_edge.runtimes.answer`) into its manifest.

    Args:
        bundle: just written, and used by nobody yet.

    Returns:
        the bundle with its answer.
    """
    answer = bundle_answer(bundle, OnnxRuntimeBackend(bundle, provider="cpu"))
    stored = Bundle(bundle.path, dataclasses.replace(bundle.manifest, answer=answer))
    (bundle.path / MANIFEST).write_text(stored.manifest.to_json(), encoding="utf-8")
    return stored
