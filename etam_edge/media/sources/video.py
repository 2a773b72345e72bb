"""A video file as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etam_edge.errors import InputError
from etam_edge.media.sources.pyav import Decoder, import_pyav, open_container
from etam_edge.media.sources.types import Ending, NamedFrame, SourceOptions


class VideoFile:
    """The frames of a video file, named by their number.

    A damaged stretch does not end the video: reading goes on behind it, and `ending` counts the frames that were lost.

    Args:
        path: of the file.
        options: of which `depth_range` is used.

    Raises:
        InputError: FFmpeg cannot read the file, or it holds no frame.
        RuntimeUnavailableError: PyAV is not installed.
    """

    is_live = False

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        self.stem = path.stem
        self.path: Path | None = path
        self.ending: Ending | None = None
        self._path = path
        self._depth_range = None if options is None else options.depth_range
        self._closed = False
        self._decoder: Decoder | None = None
        decoder = self._open()
        self.length = decoder.announced
        self.frames_per_second = decoder.rate
        frames = iter(decoder)
        first = next(frames, None)
        try:
            if first is None:
                raise InputError(f"{path} has no frame that can be decoded; name another video, or a folder of images")
            self.frame_shape: tuple[int, int] = decoder.pixels(first).shape[:2]
        finally:
            decoder.close()

    def _open(self) -> Decoder:
        av = import_pyav()
        try:
            container = open_container(str(self._path))
            return Decoder(container, str(self._path), self._depth_range, is_live=False)
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self._path} is not a video that can be read ({reason}); name another, or a folder of images"
            ) from error

    def count(self) -> int | None:
        decoder = self._open()
        count = sum(1 for _ in decoder)
        self.ending = decoder.ending
        return count

    def close(self) -> None:
        self._closed = True
        decoder = self._decoder
        if decoder is not None:
            decoder.stop()

    def __iter__(self) -> Iterator[NamedFrame]:
        self.ending = None
        self._decoder = decoder = self._open()
        if self._closed:
            decoder.stop()
        origin: float | None = None
        frames = iter(decoder)
        try:
            for index, frame in enumerate(frames):
                time = decoder.timestamp(frame)
                origin = time if origin is None else origin
                timestamp = None if time is None or origin is None else time - origin
                yield NamedFrame(f"{index:05d}", decoder.pixels(frame), index, timestamp)
        finally:
            frames.close()  # type: ignore[attr-defined]
            self._decoder = None
            self.ending = decoder.ending
