"""time_per_frame.py MODEL...: ONNX Runtime beside the PyTorch model, whole frames, in turn, with the memory bank full.

Weights are seeded: time does not depend on what they say. Prints medians and minima in milliseconds and their ratios.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from goldens import frame, seeded_state_dict  # noqa: E402

from etam_edge import Prompt, Tracker  # noqa: E402
from etam_edge.exporters.export import export_bundle  # noqa: E402
from etam_edge.model import EfficientTAM, ReferenceTracker  # noqa: E402
from etam_edge.spec import GraphSizes, find_spec  # noqa: E402

WARM_UP = 8
"""Frames until all memory slots are taken."""


def milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def compare(name: str, frames: int) -> None:
    model = EfficientTAM(find_spec(name)).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in seeded_state_dict(name, 11).items()})
    size = model.spec.image_size
    x, y = 0.25 * size, 0.6 * size
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(model, Path(folder) / "bundle", GraphSizes(), {"name": "seeded", "sha256": ""})
        session = Tracker.load(Path(folder) / "bundle", "onnxruntime", provider="cpu").start_session(max_objects=1)
        reference = ReferenceTracker(model)
        image = frame(0, size)
        session.track(image, {1: Prompt(points=[(x, y)], labels=[1])})
        reference.track(image, {1: {"points": np.array([[x, y]]), "labels": np.array([1])}})
        times: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
        for index in range(1, WARM_UP + frames):
            image = frame(index % 24, size)
            torch_time = milliseconds(lambda image=image: reference.track(image))
            session_time = milliseconds(lambda image=image: session.track(image))
            if index >= WARM_UP:
                times["torch"].append(torch_time)
                times["onnxruntime"].append(session_time)
    medians = {key: statistics.median(values) for key, values in times.items()}
    minima = {key: min(values) for key, values in times.items()}
    print(
        f"{name}: PyTorch {medians['torch']:.0f} ms (min {minima['torch']:.0f}), "
        f"ONNX Runtime {medians['onnxruntime']:.0f} ms (min {minima['onnxruntime']:.0f}), "
        f"ratio {medians['torch'] / medians['onnxruntime']:.2f} "
        f"(minima {minima['torch'] / minima['onnxruntime']:.2f}), n = {frames}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--frames", type=int, default=15)
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, torch {torch.__version__} ({torch.get_num_threads()} threads), "
        f"onnxruntime {onnxruntime.__version__}, {platform.machine()}"
    )
    for name in options.models:
        compare(name, options.frames)


if __name__ == "__main__":
    main()
