"""Raw frames on standard input: pixels after pixels, whose size and format are given."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Generator

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.sources.live_source import LiveSource
from etam_edge.media.sources.pixels import PixelConverter
from etam_edge.media.sources.types import PIXEL_FORMATS, Cause, Ending, NamedFrame, SourceOptions

POLL_SECONDS = 0.1


class RawFrames(LiveSource):
    """Frames read from a descriptor until it ends. There is no time limit: the program that writes may pause.

    Args:
        options: `size` and `pixel_format` of the frames.
        descriptor: that is read; standard input by default. It stays open.

    Raises:
        InputError: size or format is missing or unusable, or the input ends before a whole frame.
        RuntimeUnavailableError: the format needs PyAV, which is not installed.
    """

    def __init__(self, options: SourceOptions | None = None, descriptor: int | None = None) -> None:
        options = options or SourceOptions()
        if options.size is None or options.pixel_format is None:
            raise InputError(
                "raw frames on standard input state no size and no format; give `size=WxH` and "
                f"`pixel_format=FORMAT`, one of {', '.join(PIXEL_FORMATS)}"
            )
        super().__init__("stdin", options.section)
        self._converter = PixelConverter(options.pixel_format, options.size)
        self._descriptor = _standard_input() if descriptor is None else descriptor
        self._begin("standard input")

    def _read(self) -> Generator[NamedFrame, None, None]:
        data = bytearray(self._converter.size)
        index, cause, message = 0, Cause.CLOSED, ""
        try:
            while True:
                filled = self._fill(memoryview(data))
                if self._stop.is_set():
                    return
                if filled < len(data):
                    cause = Cause.BROKEN if filled else Cause.END
                    if filled:
                        message = f"the last frame has {filled} of {len(data)} bytes; check size and format"
                    return
                pixels = self._converter.rgb(np.frombuffer(data, dtype=np.uint8))
                yield NamedFrame(f"{index:05d}", pixels, index, None, time.monotonic())
                index += 1
        finally:
            self.ending = Ending(cause, index, message=message)

    def _fill(self, view: memoryview) -> int:
        """Read a frame; the number of bytes that were read before the input ended or the source was closed."""
        filled = 0
        while filled < len(view) and not self._stop.is_set():
            if not select.select([self._descriptor], [], [], POLL_SECONDS)[0]:
                continue
            count = os.readv(self._descriptor, [view[filled:]])
            if not count:
                break
            filled += count
        return filled


def _standard_input() -> int:
    """
    Raises:
        InputError: it is closed, or a terminal.
    """
    try:
        descriptor = sys.stdin.fileno()
        is_terminal = os.isatty(descriptor)
    except (AttributeError, OSError, ValueError):
        raise InputError("standard input is closed; pipe raw frames to it") from None
    if is_terminal:
        raise InputError("standard input is a terminal; pipe raw frames to it")
    return descriptor
