"""Sources of frames for tests of live runs: they break, stall and change their size as they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from etam_edge.media.sources import Cause, Ending, NamedFrame


class MadeUpCamera:
    """A live source that gives frames of a function.

    Args:
        picture: by the number of the frame, uint8 (H, W, 3) RGB.
        frames: number of frames before it ends.
        rate: frames per second; 0 gives them as fast as they are taken.
        cause: how it ends.
        start: number of the first frame.

    Attributes:
        closed: whether `close` was called.
    """

    path: Path | None = None
    is_live = True
    length: int | None = None

    def __init__(
        self,
        picture: Callable[[int], np.ndarray],
        frames: int,
        rate: float = 0.0,
        cause: Cause = Cause.END,
        start: int = 0,
    ) -> None:
        self.stem = "camera"
        self.frames_per_second = rate or None
        self.frame_shape: tuple[int, int] = picture(start).shape[:2]
        self.ending: Ending | None = None
        self._picture = picture
        self._frames = frames
        self._rate = rate
        self._cause = cause
        self._start = start
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def count(self) -> int | None:
        return None

    def close(self) -> None:
        self._closing.set()

    def __iter__(self) -> Iterator[NamedFrame]:
        self.ending = None
        begin = time.monotonic()
        given = 0
        for index in range(self._frames):
            due = begin + index / self._rate if self._rate else time.monotonic()
            if self._closing.wait(max(0.0, due - time.monotonic())) or self.closed:
                break
            seconds = index / self._rate if self._rate else None
            # A camera's frame is as old as its exposure, also where it is read late.
            yield NamedFrame(f"{index:05d}", self._picture(self._start + index), index, seconds, due)
            given += 1
        message = "the cable was pulled" if self._cause in (Cause.BROKEN, Cause.STALLED) else ""
        self.ending = Ending(Cause.CLOSED, given) if self.closed else Ending(self._cause, given, message=message)
