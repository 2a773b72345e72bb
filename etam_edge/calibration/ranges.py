"""Ranges: the smallest and largest value of every tensor of every graph over a recording.

int8 scales are computed from them, and they show where fp16 would overflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.calibration.recording import HOW, Recording
from etam_edge.errors import InputError, RuntimeUnavailableError

Ranges = dict[str, dict[str, tuple[float, float]]]
"""(smallest, largest) value by graph and tensor."""


def measure_ranges(
    bundle: Bundle, recording: Recording, progress: Callable[[str], None] = lambda graph: None
) -> Ranges:
    """Run every sample through its graph and measure the range of every float tensor.

    Args:
        bundle: the fp32 bundle that was recorded, or another export of the same checkpoint with the same sizes.
        recording: samples of every graph.
        progress: called with the graph's name after every sample.

    Raises:
        InputError: the recording is of another bundle or damaged, or a tensor is NaN or infinite.
        RuntimeUnavailableError: onnx or ONNX Runtime is not installed.
    """
    recording.check(bundle)
    found: Ranges = {}
    for name in GRAPH_NAMES:
        found[name] = _graph_ranges(bundle.graph_path(name), _Reader(recording, name, progress))
        broken = [tensor for tensor, pair in found[name].items() if not np.isfinite(pair).all()]
        if broken:
            raise InputError(
                f"{broken[0]} in graph '{name}' is NaN or infinite over {recording.path}; check the checkpoint; {HOW}"
            )
    return found


class _Reader:
    """Samples of one graph, with the interface of a `CalibrationDataReader` of ONNX Runtime."""

    def __init__(self, recording: Recording, graph: str, progress: Callable[[str], None]) -> None:
        self._samples: Iterator[dict[str, np.ndarray]] = recording.inputs(graph)
        self._graph, self._progress = graph, progress
        self._begun = False

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        if self._begun:
            self._progress(self._graph)
        self._begun = True
        return next(self._samples, None)


def _graph_ranges(path: Path, reader: _Reader) -> dict[str, tuple[float, float]]:
    """Range of every float tensor of one graph, by name."""
    quantization = import_quantization()
    with tempfile.TemporaryDirectory() as folder:
        calibrator = quantization.create_calibrator(
            path,
            op_types_to_calibrate=None,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        calibrator.collect_data(reader)
        data = calibrator.compute_data()
    return {
        name: (float(np.min(values.range_value[0])), float(np.max(values.range_value[1])))
        for name, values in data.items()
    }


def import_quantization() -> Any:
    """The module `onnxruntime.quantization.calibrate`.

    Raises:
        RuntimeUnavailableError: onnx or ONNX Runtime is not installed.
    """
    try:
        import onnxruntime.quantization
        import onnxruntime.quantization.calibrate
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"calibration needs a package that is missing ({error.name}); "
            'install it with: pip install "etam-edge[export]"'
        ) from error
    return onnxruntime.quantization.calibrate
