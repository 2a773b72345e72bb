"""Clips of scanned objects from `render.py`: they turn in depth, hide themselves and each other, cast shadows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

HELD_OUT_EVERY = 10


class Rendered:
    """Rendered clips of one split, as `render.py` wrote them.

    Args:
        folder: with `*.npz`; None or a folder that does not exist has none.
        held_out: every tenth file, otherwise all others.
    """

    def __init__(self, folder: Path | None, held_out: bool) -> None:
        files = sorted(folder.glob("*.npz")) if folder else []
        self.files = [f for index, f in enumerate(files) if (index % HELD_OUT_EVERY == 0) == held_out]

    def clip(
        self, rng: np.random.Generator, side: int, length: int, behind: list[np.ndarray]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Frames before other pictures, and the numbers of the objects on each frame, (N, S, S)."""
        with np.load(self.files[rng.integers(len(self.files))]) as stored:
            pictures, marks = stored["pictures"], stored["marks"]
            ends = np.cumsum(stored["picture_sizes"]), np.cumsum(stored["mark_sizes"])
        count = len(ends[0])
        first = int(rng.integers(max(1, count - length + 1)))
        chosen = (first + np.arange(length)) % count
        chosen = chosen[::-1] if rng.random() < 0.5 else chosen
        flip = rng.random() < 0.5
        frames, numbers = [], []
        for t, index in enumerate(chosen):
            image = cv2.imdecode(_part(pictures, ends[0], index), cv2.IMREAD_COLOR)
            number = cv2.imdecode(_part(marks, ends[1], index), cv2.IMREAD_UNCHANGED)
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            number = cv2.resize(number, (side, side), interpolation=cv2.INTER_NEAREST)
            if flip:
                image, number = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(number[:, ::-1])
            empty = (number == 0).astype(np.float32)
            share = cv2.GaussianBlur(empty, (0, 0), 0.6)[..., None]
            ground = cv2.resize(behind[t], (side, side), interpolation=cv2.INTER_AREA)
            frames.append((image * (1 - share) + ground * share).astype(np.uint8))
            # The table is scenery, not an object.
            numbers.append(np.where(number == TABLE, 0, number))
        return frames, np.stack(numbers)


TABLE = 255
"""What `render.py` marks the table with."""


def _part(stored: np.ndarray, ends: np.ndarray, index: int) -> np.ndarray:
    return stored[ends[index - 1] if index else 0 : ends[index]]
