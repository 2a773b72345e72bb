"""Where frames come from: a video file, a folder of images, or a camera. Read lazily, one frame at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from etam_edge.errors import InputError, RuntimeUnavailableError

FFMPEG_QUIET = "-8"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
UNREADABLE_IMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises over damaged files."""


@dataclass(frozen=True, eq=False)
class NamedFrame:
    """A frame, uint8 (H, W, 3) RGB, and what its own files are called after it."""

    name: str
    pixels: np.ndarray


class FrameSource(Protocol):
    """Frames in order.

    Attributes:
        stem: what the source's outputs are called after.
        path: where it is read from, or None for a camera.
        length: how many frames there are, or None where that is not known beforehand. What a video file announces may
            be wrong: `count` knows.
        frames_per_second: or None where a source has no clock.
        frame_shape: (H, W) of the first frame in pixels.
    """

    stem: str
    path: Path | None
    length: int | None
    frames_per_second: float | None
    frame_shape: tuple[int, int]

    def __iter__(self) -> Iterator[NamedFrame]: ...

    def count(self) -> int | None:
        """How many frames there are, or None where there is no end. May decode a whole video."""


def open_source(source: str) -> FrameSource:
    """The frames at a path, or of the camera with this number where no path is called so.

    Raises:
        InputError: there is nothing at `source` that frames can be read from.
        RuntimeUnavailableError: OpenCV is needed and not installed.
    """
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(f"{path} is one image; name the folder that holds the frames, or a video file")
        return VideoFile(path)
    if source.isdecimal():
        return Camera(int(source))
    raise InputError(f"there is nothing at {source}; name a video file, a folder of images, or a camera by its number")


class ImageFolder:
    """Images of a folder, in the natural order of their names: 2.jpg before 10.jpg.

    Attributes:
        files: the images, in that order.
    """

    frames_per_second: float | None = None

    def __init__(self, path: Path) -> None:
        self.stem = path.resolve().name
        self.path: Path | None = path
        try:
            found = [file for file in path.iterdir() if _is_frame(file)]
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); name another folder") from error
        self.files = sorted(found, key=_natural_order)
        self.length: int | None = len(self.files)
        if not self.files:
            raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); name a folder that does")
        stems = [file.stem for file in self.files]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InputError(f"{path} holds several images named {twice}; keep one kind of file in the folder")
        self.frame_shape: tuple[int, int] = read_image(self.files[0]).shape[:2]

    def count(self) -> int | None:
        return self.length

    def __iter__(self) -> Iterator[NamedFrame]:
        for file in self.files:
            yield NamedFrame(file.stem, read_image(file))


class _Capture:
    """What OpenCV reads: a video file or a camera."""

    def __init__(self, target: str | int) -> None:
        cv2 = import_opencv()
        self._error = cv2.error
        self._capture = cv2.VideoCapture()
        # A camera number beyond a C int raises where others just do not open.
        with suppress(cv2.error):
            self._capture.open(target)
        self.opened = bool(self._capture.isOpened())
        rate = self._capture.get(cv2.CAP_PROP_FPS) if self.opened else 0
        self.rate = float(rate) if rate and np.isfinite(rate) and 0 < rate < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) if self.opened else 0
        self.count = int(count) if count and count > 0 else None
        self._to_rgb = lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read(self) -> np.ndarray | None:
        """The next frame, uint8 (H, W, 3) RGB, or None after the last one that can be read."""
        try:
            found, image = self._capture.read()
        except self._error:
            return None
        return self._to_rgb(image) if found else None

    def skip(self) -> bool:
        """Pass over a frame; False after the last one."""
        return bool(self._capture.grab())

    def close(self) -> None:
        self._capture.release()


class VideoFile:
    """Frames of a video file, named by their number."""

    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        self.path: Path | None = path
        self._path = path
        with closing(_Capture(str(path))) as capture:
            first = capture.read() if capture.opened else None
            if first is None:
                raise InputError(
                    f"{path} is no video that OpenCV can read, or is empty; name another, or a folder of images"
                )
            self.length = capture.count
            self.frames_per_second = capture.rate
            self.frame_shape: tuple[int, int] = first.shape[:2]

    def count(self) -> int | None:
        with closing(_Capture(str(self._path))) as capture:
            return sum(1 for _ in iter(capture.skip, False))

    def __iter__(self) -> Iterator[NamedFrame]:
        with closing(_Capture(str(self._path))) as capture:
            index = 0
            while (pixels := capture.read()) is not None:
                yield NamedFrame(f"{index:05d}", pixels)
                index += 1


class Camera:
    """Frames of a camera until it is unplugged, named by their number."""

    length: int | None = None
    path: Path | None = None

    def __init__(self, index: int) -> None:
        self.stem = f"camera{index}"
        self._capture = _Capture(index)
        self.frames_per_second = self._capture.rate
        first = self._capture.read() if self._capture.opened else None
        if first is None:
            fault = "gives no frame" if self._capture.opened else "does not open"
            self._capture.close()
            raise InputError(f"camera {index} {fault}; check that it is there and that no other program uses it")
        self.frame_shape: tuple[int, int] = first.shape[:2]

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[NamedFrame]:
        with closing(self._capture) as capture:
            number = 0
            while (pixels := capture.read()) is not None:
                yield NamedFrame(f"{number:05d}", pixels)
                number += 1


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def _natural_order(file: Path) -> tuple[list[str | int], str]:
    """2 before 10. Every second part of the split is a number, so that like is compared with like."""
    parts = re.split(r"([0-9]+)", file.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def read_image(file: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB.

    Raises:
        InputError: the file is no image, or is damaged.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise InputError(
            f"{file} is no image that Pillow can read; take it out of the folder, or save it again"
        ) from None
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{file} is damaged or cannot be read ({error}); save it again") from error


def import_opencv() -> Any:
    """
    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"videos and cameras need OpenCV, which cannot be imported ({error}); "
            'install it with: pip install "etam-edge[video]", or use a folder of images and --masks'
        ) from error
    # The complaints of OpenCV and FFmpeg about bad files would stand before our own sentence.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    return cv2
