"""This project's candidates: a bundle's session, and the PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.scene import Scene
from etam_edge import FrameResult, Prompt, Tracker
from etam_edge.runtimes.resample import resize_bilinear

if TYPE_CHECKING:
    from etam_edge.model import EfficientTAM
    from etam_edge.model.reference_tracker import FrameMemory

OBJECT = 1


class SessionRunner:
    """A session of a bundle: from a frame, uint8 (S, S, 3), to its mask, bool (S, S).

    Args:
        tracker: the bundle.
        scene: what it sees.
    """

    def __init__(self, tracker: Tracker, scene: Scene) -> None:
        self._session = tracker.start_session(max_objects=1)
        self._scene = scene
        self._result: FrameResult | None = None

    def step(self, index: int) -> None:
        prompts = {OBJECT: Prompt(points=[self._scene.click], labels=[1])} if index == 0 else None
        self._result = self._session.track(self._scene.frame(index), prompts)

    def logits(self) -> np.ndarray:
        if self._result is None:
            raise RuntimeError("a frame comes first")
        return self._result.mask_logits[0]


class ModelRunner:
    """The plain PyTorch model, one frame in and one mask out, as a session.

    Args:
        model: in evaluation mode, float32, on the CPU.
        scene: what it sees.

    Attributes:
        masks: of the frame just tracked, bool (1, S, S).
        tracker: with all that the model remembers.
    """

    def __init__(self, model: EfficientTAM, scene: Scene) -> None:
        from etam_edge.model import ReferenceTracker

        self.tracker = ReferenceTracker(model)
        self._scene = scene
        self._answer: FrameMemory | None = None
        self.masks: np.ndarray | None = None

    def step(self, index: int) -> None:
        prompts = {OBJECT: {"points": np.array([self._scene.click]), "labels": np.array([1])}} if index == 0 else None
        # torch wants an array that it may write to.
        self._answer = self.tracker.track(self._scene.frame(index).copy(), prompts)[OBJECT]
        self.masks = resize_bilinear(self.logits()[None], self._scene.size, self._scene.size) > 0

    def logits(self) -> np.ndarray:
        if self._answer is None:
            raise RuntimeError("a frame comes first")
        return self._answer.segmentation.mask_logits[0, 0].numpy()
