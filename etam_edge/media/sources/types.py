"""What every source of frames gives: frames with their time, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.sources.section import Section
from etam_edge.spec import check_frame_size


@dataclass(frozen=True, eq=False)
class NamedFrame:
    """A frame of a source.

    Attributes:
        name: stem of the names of files that belong to the frame, for example its mask: the image file's own, or a
            number.
        pixels: uint8 (H, W, 3) RGB.
        index: number of the frame in its source, from 0, among the frames that could be read, also where only a
            section of the source is read.
        timestamp: seconds from the source's first frame, as the file or the stream states them; None where it states
            none. Differences vary where the frame rate does.
        captured: reading of `time.monotonic()` when a live source captured the frame, as far as the source tells, else
            when the frame arrived; None for files.
        image: name of the image file that it was read from, without its folder; None where there is none.
    """

    name: str
    pixels: np.ndarray
    index: int = 0
    timestamp: float | None = None
    captured: float | None = None
    image: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the frame's image file: of the one that it was read from, else NAME.jpg."""
        return self.image or f"{self.name}.jpg"


class Cause(str, Enum):
    """Why no more frames came."""

    END = "end"
    """The last frame of the source was read."""
    CLOSED = "closed"
    """The caller stopped reading, or called `close`."""
    STALLED = "stalled"
    """No frame came within the time limit."""
    BROKEN = "broken"
    """The connection or the device was lost, or what follows is not readable at all."""


@dataclass(frozen=True)
class Ending:
    """How the reading of a source ended.

    Attributes:
        cause: why no more frames came.
        frames: number of frames that were given.
        lost: number of frames that are in the source and could not be decoded.
        damaged: number of frames among those given that the decoder marked as damaged.
        message: for STALLED and BROKEN, what happened, as part of a sentence; else "".
    """

    cause: Cause
    frames: int
    lost: int = 0
    damaged: int = 0
    message: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all frames that were asked for were given, undamaged."""
        return not (self.lost or self.damaged or self.message)

    def shortfall(self) -> str:
        """What is missing, as part of a sentence; "" where nothing is."""
        parts = []
        if self.lost:
            of = f" of {self.frames + self.lost}"
            parts.append(f"{self.lost}{of} frames {'is' if self.lost == 1 else 'are'} lost")
        if self.damaged:
            parts.append(f"{self.damaged} {'frame is' if self.damaged == 1 else 'frames are'} damaged")
        if self.message:
            parts.append(self.message)
        return ", ".join(parts)


class FrameSource(Protocol):
    """Frames in order. Each iteration starts at the first frame, except for a live source, which is read once.

    It may be opened, read and closed in different threads, but is read by one at a time.

    Attributes:
        stem: name of the source, from which names of outputs are derived.
        path: of the file or folder, or None.
        is_live: whether frames come at the source's own pace: a camera, a stream, standard input. It can be iterated
            once.
        length: number of frames that are read, or None where it is not known beforehand. That of a video file is read
            from its header and may be wrong; `count` is exact.
        frames_per_second: average, or None where it is not known.
        frame_shape: (H, W) of the first frame, in pixels, turned as its orientation says.
        depth_range: (low, high) counts that become black and white, where frames are grey of more than 8 bits.
    """

    stem: str
    path: Path | None
    is_live: bool
    length: int | None
    frames_per_second: float | None
    frame_shape: tuple[int, int]
    depth_range: tuple[float, float] | None

    @property
    def ending(self) -> Ending | None:
        """How the last iteration ended; None before it, and while frames are read."""

    def __iter__(self) -> Iterator[NamedFrame]:
        """The frames.

        A source that stalls, breaks or is damaged ends, and says so in `ending`.

        Raises:
            InputError: an image of a folder cannot be read.
        """

    def count(self) -> int | None:
        """The exact number of frames, or None for a live source. May decode a whole video."""

    def close(self) -> None:
        """End the reading, from any thread: no more frames come after the one being read.

        A thread that waits for a frame stops waiting at the latest when the source's time limit has passed.
        """


PIXEL_FORMATS = ("rgb24", "bgr24", "gray", "yuyv422", "nv12")
"""Pixel formats of raw frames on standard input."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        depth_range: (low, high) counts of grey images of more than 8 bits that become black and white; None for the
            rule in `etam_edge.media.sources.depth`.
        section: part of the source that is read.
        size: (H, W) of raw frames on standard input; requested from a camera, too.
        pixel_format: of raw frames on standard input, one of PIXEL_FORMATS.
        open_seconds: time limit for a camera or stream to open and give its first frame.
        read_seconds: time limit for each further frame of a camera or stream.

    Raises:
        InputError: a value cannot be used.
    """

    depth_range: tuple[float, float] | None = None
    section: Section = field(default_factory=Section)
    size: tuple[int, int] | None = None
    pixel_format: str | None = None
    open_seconds: float = 10.0
    read_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.depth_range is not None and not self.depth_range[0] < self.depth_range[1]:
            low, high = self.depth_range
            raise InputError(f"`depth_range={low:g},{high:g}` is empty; give the lower count first")
        if self.size is not None:
            check_frame_size(self.size)
        if self.pixel_format is not None and self.pixel_format not in PIXEL_FORMATS:
            raise InputError(f"`pixel_format={self.pixel_format}` is unknown; give one of {', '.join(PIXEL_FORMATS)}")
        if not (self.open_seconds > 0 and self.read_seconds > 0):
            raise InputError("`open_seconds` and `read_seconds` must be above 0")
