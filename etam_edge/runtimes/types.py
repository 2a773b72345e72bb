"""What goes into a session and what comes out: `Prompt` and `FrameResult`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the user says about one object on one frame. Coordinates are pixels of the frame given.

    Either `points` with `labels`, or `box`, or both of these together, or `mask` alone.

    Attributes:
        points: (P, 2) as (x, y), 0 <= x < W, 0 <= y < H.
        labels: (P,), 1 on the object, 0 off it.
        box: (x0, y0, x1, y1) with x0 < x1 and y0 < y1; what reaches beyond the frame is cut off.
        mask: bool (H, W), true on the object.
    """

    points: Sequence[Sequence[float]] | np.ndarray | None = None
    labels: Sequence[int] | np.ndarray | None = None
    box: Sequence[float] | np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The answer for one frame: N objects, in the order in which they were first prompted.

    Attributes:
        frame_index: 0 for the first frame of the session.
        object_ids: the N ids.
        masks: bool (N, H, W) at frame size.
        mask_logits: float32 (N, S/4, S/4); -1024 everywhere where the object is not visible.
        object_scores: float32 (N,), logits; <= 0 means not visible.
        ious: float32 (N,), the IoU that the model predicts for its own mask.
        mask_choices: int32 (N,), which of the decoder's candidates was taken: 0 the single mask, 1 to 3 the
            alternatives, -1 a mask prompt taken as it is.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    masks: np.ndarray
    mask_logits: np.ndarray
    object_scores: np.ndarray
    ious: np.ndarray
    mask_choices: np.ndarray
