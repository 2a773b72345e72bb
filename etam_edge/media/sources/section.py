"""A part of a source, from one frame or time to another."""

from __future__ import annotations

import re
from dataclasses import dataclass

from etam_edge.errors import InputError


@dataclass(frozen=True)
class Moment:
    """A place in a source: the number of a frame, from 0, or a time. One of the two is None.

    Attributes:
        frame: index of a frame.
        seconds: from the source's first frame.
        text: as the user wrote it.
    """

    frame: int | None
    seconds: float | None
    text: str

    @classmethod
    def parse(cls, text: str, parameter: str) -> Moment:
        """A frame number such as "120", or a time: "4.5", "4s", "1:30" or "0:01:30.25".

        Raises:
            InputError: it is neither.
        """
        if re.fullmatch(r"[0-9]{1,15}", text):
            return cls(int(text), None, text)
        time = re.fullmatch(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,12}(?:\.\d*)?|\.\d+)s?", text, re.ASCII)
        if time is None:
            raise InputError(
                f"`{parameter}={text}` is neither a frame nor a time; give a frame's number (120) or a time (4.5, 4s, "
                "1:30)"
            )
        hours, minutes, seconds = (float(part or 0) for part in time.groups())
        return cls(None, 3600 * hours + 60 * minutes + seconds, text)

    def is_reached(self, index: int, timestamp: float | None) -> bool:
        """Whether a frame is at this place or behind it. A frame without a time reaches no time."""
        if self.frame is not None:
            return index >= self.frame
        # Times are written with few digits: 0.033 is meant to be the frame at 0.0333.
        return timestamp is not None and self.seconds is not None and timestamp >= self.seconds - 5e-4


@dataclass(frozen=True)
class Section:
    """Frames from `start` on, and before `end`; None for the source's own first and last frame.

    Raises:
        InputError: the end is not behind the start.
    """

    start: Moment | None = None
    end: Moment | None = None

    def __post_init__(self) -> None:
        start, end = self.start, self.end
        if end is None:
            return
        if end.frame is not None:
            empty = end.frame <= (start.frame or 0 if start is not None and start.frame is not None else 0)
        else:
            begin = start.seconds if start is not None and start.seconds is not None else 0.0
            empty = end.seconds is not None and end.seconds <= begin
        if empty:
            begin_text = f", which is not behind `start={start.text}`" if start is not None else " and leaves no frame"
            raise InputError(f"`end={end.text}`{begin_text}; the frame at the end is not read, so give a later one")

    def is_before(self, index: int, timestamp: float | None) -> bool:
        """Whether a frame comes before the start."""
        return self.start is not None and not self.start.is_reached(index, timestamp)

    def is_behind(self, index: int, timestamp: float | None) -> bool:
        """Whether a frame is at the end or behind it."""
        return self.end is not None and self.end.is_reached(index, timestamp)

    def length(self, length: int | None) -> int | None:
        """Number of frames in the section of a source of `length` frames; None where it is not known."""
        start, end = self.start, self.end
        if length is None or (start and start.frame is None) or (end and end.frame is None):
            return None
        first = 0 if start is None or start.frame is None else start.frame
        last = length if end is None or end.frame is None else min(end.frame, length)
        return max(0, last - first)

    def frames(self, length: int, where: str) -> range:
        """The frames of the section of a source of `length` frames that have no times.

        Raises:
            InputError: the section is given by times, or begins behind the last frame.
        """
        for name, moment in (("start", self.start), ("end", self.end)):
            if moment is not None and moment.frame is None:
                raise InputError(f"`{name}={moment.text}`: the images of {where} have no times; give a frame's number")
        first = 0 if self.start is None or self.start.frame is None else self.start.frame
        if first >= length:
            raise self.nothing(where)
        return range(first, first + (self.length(length) or 0))

    def nothing(self, where: str) -> InputError:
        """The error for a source that ends before the start."""
        text = "" if self.start is None else self.start.text
        return InputError(f"`start={text}`: {where} ends before it; give an earlier frame or time")
