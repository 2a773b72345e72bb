"""A video file as a source of frames."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.errors import InputError
from etam_edge.media.sources.pyav import Decoder, import_pyav, open_container
from etam_edge.media.sources.types import Ending, NamedFrame, SourceOptions

if TYPE_CHECKING:
    from av import VideoFrame


class VideoFile:
    """The frames of a video file, named by their number.

    A damaged stretch does not end the video: reading goes on behind it, and `ending` counts the frames that were lost.

    Args:
        path: of the file.
        options: of which `depth_range` and the section are used.

    Raises:
        InputError: FFmpeg cannot read the file, or it holds no frame.
        RuntimeUnavailableError: PyAV is not installed.
    """

    is_live = False

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        self.stem = path.stem
        self.path: Path | None = path
        self.ending: Ending | None = None
        self._path = path
        self._depth_range = options.depth_range
        self._section = options.section
        self._stop = threading.Event()
        decoder = self._open()
        frames = iter(decoder)
        try:
            first = next(frames, None)
            if first is None:
                raise InputError(f"{path} has no frame that can be decoded; name another video, or a folder of images")
            self.frame_shape: tuple[int, int] = decoder.pixels(first).shape[:2]
        finally:
            frames.close()
        self.length = self._section.length(decoder.announced)
        self.frames_per_second = decoder.rate
        self.depth_range = decoder.depth_range

    def _open(self) -> Decoder:
        """
        Raises:
            InputError: FFmpeg cannot read the file.
        """
        av = import_pyav()
        try:
            container = open_container(os.path.abspath(self._path))
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self._path} is not a video that can be read ({reason}); name another, or a folder of images"
            ) from error
        return Decoder(container, str(self._path), self._depth_range, self._stop, is_live=False)

    def count(self) -> int | None:
        return sum(1 for _ in self._walk(self._open()))

    def close(self) -> None:
        self._stop.set()

    def __iter__(self) -> Iterator[NamedFrame]:
        decoder = self._open()
        with closing(self._walk(decoder)) as frames:
            for index, timestamp, frame in frames:
                yield NamedFrame(f"{index:05d}", decoder.pixels(frame), index, timestamp)

    def _walk(self, decoder: Decoder) -> Generator[tuple[int, float | None, VideoFrame], None, None]:
        """The frames of the section, not yet converted, with their index and timestamp.

        Raises:
            InputError: the video ends before the section.
        """
        self.ending = None
        frames = iter(decoder)
        origin: float | None = None
        nothing = True
        try:
            for index, frame in enumerate(frames):
                time = decoder.timestamp(frame)
                origin = time if origin is None else origin
                timestamp = None if time is None or origin is None else time - origin
                if self._section.is_behind(index, timestamp):
                    return
                if not self._section.is_before(index, timestamp):
                    nothing = False
                    yield index, timestamp, frame
            if nothing and decoder.given and not self._stop.is_set():
                raise self._section.nothing(str(self._path))
        finally:
            frames.close()
            self.ending = decoder.ending
