"""Overlay videos: H.264 in an .mp4 file, written by PyAV."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.overlay import draw_result
from etam_edge.media.sinks.base import PendingFile, cannot_write, check_file
from etam_edge.media.sources import NamedFrame, import_opencv
from etam_edge.media.sources.pyav import import_pyav
from etam_edge.runtimes.types import FrameResult

DEFAULT_RATE = 30.0
"""Frames per second of an overlay video whose source does not know its own."""
ENCODER = "libx264"
OPTIONS = {"preset": "veryfast", "crf": "20"}
"""A frame of 720 x 480 is encoded in a few milliseconds, without visible loss."""
CLOCK = Fraction(1, 90_000)
"""Unit of a frame's time in the file, in seconds: the usual frame rates are whole multiples of it."""
BT709, LIMITED_RANGE = 1, 1
"""Colour space and range in the numbers of ISO/IEC 23091-2, as FFmpeg writes them."""
MOST_FRAMES_PER_SECOND = 1000


def check_video(path: Path, overwrite: bool) -> None:
    """Refuse a file that `OverlayVideo` could not write. Nothing is created.

    Raises:
        InputError: it cannot be written, its name does not end in .mp4, or it is there already.
        RuntimeUnavailableError: OpenCV or PyAV is not installed.
    """
    if path.suffix.lower() != ".mp4":
        raise InputError(f"`output={path}` is not an .mp4 file; name one that ends in .mp4")
    import_opencv("the overlay video")
    _import_av()
    check_file(path, "output", overwrite)


class OverlayVideo:
    """An .mp4 video (H.264, 4:2:0) of the frames with masks drawn over them, which browsers play.

    A frame has the time that its source states (`NamedFrame.timestamp`), so that a variable frame rate stays one.
    Frames without a time follow each other at the given rate.

    Args:
        path: of the file.
        frames_per_second: of the source, on average; DEFAULT_RATE where it is None.
        frame_shape: (H, W) of the frames. An odd last row or column is left out: the format has even sides.
        labels: names of objects, by id.
        overwrite: replace a file that is there.

    Raises:
        InputError: as of `check_video`, or the frames are too small for a video.
        RuntimeUnavailableError: OpenCV or PyAV is not installed, or PyAV has no H.264 encoder.
    """

    def __init__(
        self,
        path: Path,
        frames_per_second: float | None,
        frame_shape: tuple[int, int],
        labels: Mapping[int, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        check_video(path, overwrite)
        self._cv2, self._av = import_opencv("the overlay video"), _import_av()
        self.path = path
        self._labels = {} if labels is None else labels
        self._failure: InputError | None = None
        self._rate = _usable_rate(frames_per_second)
        self._height, self._width = (side - side % 2 for side in frame_shape)
        if not (self._height and self._width):
            raise InputError(
                f"`output={path}`: frames of {frame_shape[1]} x {frame_shape[0]} pixels are too small for a video; use "
                "`masks=DIR`"
            )
        self._first: float | None = None
        self._last = -1
        self._pending = PendingFile(path, "output", overwrite)
        try:
            self._container = self._av.open(
                # Absolute: FFmpeg takes what stands before a colon in a relative path for a protocol.
                os.path.abspath(self._pending.temporary),
                "w",
                format="mp4",
                options={"movflags": "+faststart"},
            )
            self._stream = self._add_stream()
        except (OSError, self._av.FFmpegError) as error:
            self._pending.discard()
            raise cannot_write(path, error) from error

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        drawn = draw_result(self._cv2, frame.pixels, result, self._labels)[: self._height, : self._width]
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = self._time_of(frame), CLOCK
        self._encode(picture)

    def close(self) -> None:
        try:
            if self._failure:
                raise self._failure
            self._encode(None)
            self._container.close()
        except InputError:
            self.discard()
            raise
        except (OSError, self._av.FFmpegError) as error:
            self.discard()
            raise cannot_write(self.path, error) from error
        self._pending.commit()

    def discard(self) -> None:
        # Closing completes the file, which fails on a full disk; it is removed in any case.
        with suppress(OSError, ValueError, self._av.FFmpegError):
            self._container.close()
        self._pending.discard()

    def _add_stream(self) -> Any:
        rate = Fraction(self._rate).limit_denominator(1001)
        stream = self._container.add_stream(ENCODER, rate=rate, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = self._width, self._height, "yuv420p"
        context = stream.codec_context
        context.time_base = CLOCK
        # Without frames that refer to later ones, the order of times is that of the frames.
        context.max_b_frames = 0
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        return stream

    def _time_of(self, frame: NamedFrame) -> int:
        """The frame's time in units of CLOCK, later than that of the frame before."""
        stated = frame.timestamp
        if stated is None:
            ticks = 0 if self._last < 0 else self._last + round(1 / (self._rate * CLOCK))
        else:
            if self._first is None:
                self._first = stated - max(self._last + 1, 0) * float(CLOCK)
            ticks = round((stated - self._first) / CLOCK)
        self._last = max(ticks, self._last + 1)
        return self._last

    def _encode(self, picture: Any) -> None:
        """
        Raises:
            InputError: the frame cannot be written; the file will not be kept.
        """
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (OSError, self._av.FFmpegError) as error:
            self._failure = cannot_write(self.path, error)
            raise self._failure from error


def _usable_rate(frames_per_second: float | None) -> float:
    if frames_per_second is None or not 0 < frames_per_second <= MOST_FRAMES_PER_SECOND:
        return DEFAULT_RATE
    return frames_per_second


def _import_av() -> Any:
    """
    Raises:
        RuntimeUnavailableError: PyAV is not installed, or was built without an H.264 encoder.
    """
    av = import_pyav("the overlay video needs", "use `masks` and `scores`")
    if ENCODER not in av.codecs_available:
        raise RuntimeUnavailableError(
            f"the overlay video needs {ENCODER}, which this PyAV was built without; install a wheel of PyAV, or use "
            "`masks` and `scores`"
        )
    return av
