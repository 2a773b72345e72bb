"""What all live sources have in common: they are read once, and the first frame is read when they are opened."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

from etam_edge.errors import InputError
from etam_edge.media.sources.section import Section
from etam_edge.media.sources.types import Ending, NamedFrame


class LiveSource(ABC):
    """A source whose frames come at their own pace, named by their number. A subclass opens it, then calls `_begin`.

    Args:
        stem: name of the source.
        section: part that is read.
    """

    path: Path | None = None
    is_live = True
    length: int | None = None
    frames_per_second: float | None = None
    depth_range: tuple[float, float] | None = None
    frame_shape: tuple[int, int]

    def __init__(self, stem: str, section: Section) -> None:
        self.stem = stem
        self.ending: Ending | None = None
        self._section = section
        self._stop = threading.Event()
        self._frames = self._wanted()
        self._first: NamedFrame | None = None

    @abstractmethod
    def _read(self) -> Generator[NamedFrame, None, None]:
        """All frames. It returns soon after `_stop` is set, frees everything when it is closed, and sets `ending`."""

    def _begin(self, where: str) -> None:
        """Read the first frame.

        Raises:
            InputError: there is none.
        """
        self._first = next(self._frames, None)
        if self._first is None:
            reason = f": {self.ending.message}" if self.ending is not None and self.ending.message else ""
            raise InputError(f"{where} gives no frame{reason}; check that it sends, and that no other program uses it")
        self.frame_shape = self._first.pixels.shape[:2]

    def _wanted(self) -> Generator[NamedFrame, None, None]:
        frames = self._read()
        try:
            for frame in frames:
                if self._section.is_behind(frame.index, frame.timestamp):
                    return
                if not self._section.is_before(frame.index, frame.timestamp):
                    yield frame
        finally:
            frames.close()

    def count(self) -> int | None:
        return None

    def close(self) -> None:
        self._stop.set()
        # ValueError: the frames are being read in another thread, which will see that it has to stop.
        with suppress(ValueError):
            self._frames.close()

    def __iter__(self) -> Iterator[NamedFrame]:
        try:
            first, self._first = self._first, None
            if first is not None and not self._stop.is_set():
                yield first
            yield from self._frames
        finally:
            self.close()
