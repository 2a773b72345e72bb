"""The peer-style export as a candidate: two graphs back to back, memory on the host in the order of its age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.plain_graphs import ENCODE, TRACK
from benchmarks.scene import Scene
from benchmarks.session_options import session_options
from etam_edge.benchmark.measure import frames_to_fill
from etam_edge.runtimes.resample import resize_bilinear

if TYPE_CHECKING:
    from etam_edge.model import EfficientTAM


@dataclass(frozen=True, eq=False)
class FullMemory:
    """What the model remembers when its memory is full, and what it answered on the way there.

    Attributes:
        memory: (1, F * T, M) float32: the conditioning frame, then the others from the oldest on.
        position: of the same shape.
        pointers: (1, P * 4, M) float32: the conditioning frame's, then the others from the newest on.
        logits: of the frames that led there, (S/4, S/4) float32 each.
    """

    memory: np.ndarray
    position: np.ndarray
    pointers: np.ndarray
    logits: list[np.ndarray]


def fill_memory(model: EfficientTAM, scene: Scene) -> FullMemory:
    """Track the first frames with the PyTorch model: a graph of fixed shapes serves only from then on."""
    from benchmarks.runners import OBJECT, ModelRunner

    runner, logits = ModelRunner(model, scene), []
    for index in range(frames_to_fill(model.spec)):
        runner.step(index)
        logits.append(runner.logits())
    tracker = runner.tracker
    # As at the beginning of the next frame.
    tracker.frame_index += 1
    memory, position, pointers = (part.detach() for part in tracker._memory(tracker.objects[OBJECT]))
    position = position.expand_as(memory)
    return FullMemory(memory.numpy().copy(), position.numpy().copy(), pointers.numpy().copy(), logits)


class PlainRunner:
    """The two graphs in ONNX Runtime. Until memory is full it repeats the results of the PyTorch model.

    Args:
        paths: of the graphs.
        start: the memory that it begins with; it is copied.
        scene: what it sees.
        threads: for one graph; None lets ONNX Runtime choose.
        spinning: what waiting threads do, one of the backend's `SPIN_POLICIES`; None for the backend's default.

    Attributes:
        masks: of the frame just tracked, bool (1, S, S).
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        start: FullMemory,
        scene: Scene,
        threads: int | None,
        spinning: str | None = None,
    ) -> None:
        import onnxruntime

        options = session_options(threads, spinning)
        self._encode, self._track = (
            onnxruntime.InferenceSession(str(paths[name]), options, providers=["CPUExecutionProvider"])
            for name in (ENCODE, TRACK)
        )
        self._start = start
        self._memory, self._pointers = start.memory.copy(), start.pointers.copy()
        self._scene = scene
        self._logits: np.ndarray | None = None
        self.masks: np.ndarray | None = None

    def step(self, index: int) -> None:
        if index < len(self._start.logits):
            self._logits = self._start.logits[index]
            return
        (features,) = self._encode.run(None, {"frame": self._scene.frame(index)[None]})
        given = {"memory": self._memory, "position": self._start.position, "pointers": self._pointers}
        logits, pointer, memory = self._track.run(None, {"image_features": features, **given})
        self._remember(memory, pointer)
        self._logits = logits[0, 0]
        self.masks = resize_bilinear(self._logits[None], self._scene.size, self._scene.size) > 0

    def logits(self) -> np.ndarray:
        if self._logits is None:
            raise RuntimeError("a frame comes first")
        return self._logits

    def _remember(self, memory: np.ndarray, pointer: np.ndarray) -> None:
        """The oldest frame makes room; the conditioning one stays where it is, at the front."""
        tokens, width = memory.shape[1:]
        self._memory[:, tokens:-tokens] = self._memory[:, 2 * tokens :].copy()
        self._memory[:, -tokens:] = memory
        split = pointer.reshape(1, -1, width)
        count = split.shape[1]
        self._pointers[:, 2 * count :] = self._pointers[:, count:-count].copy()
        self._pointers[:, count : 2 * count] = split
