"""Sources of frames: a video file, a folder of images, or a camera. Frames are read lazily, one at a time."""

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
"""FFmpeg's log level AV_LOG_QUIET."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
UNREADABLE_IMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for damaged files."""


@dataclass(frozen=True, eq=False)
class NamedFrame:
    """A frame of a source.

    Attributes:
        name: stem of the names of files that belong to the frame, for example its mask: the image file's own, or a
            number.
        pixels: uint8 (H, W, 3) RGB.
    """

    name: str
    pixels: np.ndarray


class FrameSource(Protocol):
    """Frames in order. Each iteration starts at the first frame, except for a camera.

    Attributes:
        stem: name of the source, from which names of outputs are derived.
        path: of the file or folder, or None for a camera.
        length: number of frames, or None where it is not known beforehand. That of a video file is read from its header
            and may be wrong; `count` is exact.
        frames_per_second: or None where it is not known.
        frame_shape: (H, W) of the first frame, in pixels.
    """

    stem: str
    path: Path | None
    length: int | None
    frames_per_second: float | None
    frame_shape: tuple[int, int]

    def __iter__(self) -> Iterator[NamedFrame]: ...

    def count(self) -> int | None:
        """The exact number of frames, or None for an endless source. May decode a whole video."""


def open_source(source: str) -> FrameSource:
    """Open a source.

    Args:
        source: path of a video file or a folder of images; or a camera's number, where no path has this name.

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
    """The images of a folder, in the natural order of their names: 2.jpg before 10.jpg.

    Args:
        path: of the folder.

    Attributes:
        files: paths of the images, in that order.

    Raises:
        InputError: the folder cannot be read, holds no images, or two with the same stem.
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
    """A video file or camera opened by OpenCV.

    Args:
        target: path of the file, or number of the camera.

    Attributes:
        opened: whether OpenCV could open it.
        rate: frames per second, or None where it is not known.
        count: number of frames that the file's header announces, or None.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(self, target: str | int) -> None:
        cv2 = import_opencv()
        self._error = cv2.error
        self._capture = cv2.VideoCapture()
        # OpenCV raises for a camera number beyond a C int, while other numbers merely fail to open.
        with suppress(cv2.error):
            self._capture.open(target)
        self.opened = bool(self._capture.isOpened())
        rate = self._capture.get(cv2.CAP_PROP_FPS) if self.opened else 0
        self.rate = float(rate) if rate and np.isfinite(rate) and 0 < rate < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) if self.opened else 0
        self.count = int(count) if count and count > 0 else None
        self._to_rgb = lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def read(self) -> np.ndarray | None:
        """The next frame, uint8 (H, W, 3) RGB, or None after the last one that can be decoded."""
        try:
            found, image = self._capture.read()
        except self._error:
            return None
        return self._to_rgb(image) if found else None

    def skip(self) -> bool:
        """Skip a frame without decoding it; False after the last one."""
        return bool(self._capture.grab())

    def close(self) -> None:
        self._capture.release()


class VideoFile:
    """The frames of a video file, named by their number.

    Args:
        path: of the file.

    Raises:
        InputError: OpenCV cannot read the file, or it holds no frame.
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        self.path: Path | None = path
        self._path = path
        with closing(_Capture(str(path))) as capture:
            first = capture.read() if capture.opened else None
            if first is None:
                raise InputError(
                    f"{path} is not a video that OpenCV can read, or is empty; name another, or a folder of images"
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
    """The frames of a camera until it is disconnected, named by their number. It can be iterated once.

    Args:
        index: number of the camera.

    Raises:
        InputError: the camera does not open, or gives no frame.
        RuntimeUnavailableError: OpenCV is not installed.
    """

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
    """A sort key that puts 2 before 10: the name split into text and numbers, which alternate."""
    parts = re.split(r"([0-9]+)", file.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name


def read_image(file: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Raises:
        InputError: the file is not an image, or is damaged.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise InputError(
            f"{file} is not an image that Pillow can read; take it out of the folder, or save it again"
        ) from None
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{file} is damaged or cannot be read ({error}); save it again") from error


def import_opencv(user: str | None = None) -> Any:
    """The module of OpenCV, with its own messages silenced.

    Args:
        user: what needs it, for the message; by default videos and cameras.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        need = f"{user} needs" if user else "videos and cameras need"
        instead = "" if user else ", or use a folder of images and `masks`"
        raise RuntimeUnavailableError(
            f"{need} OpenCV, which cannot be imported ({error}); "
            f'install it with: pip install "etam-edge[video]"{instead}'
        ) from error
    # OpenCV and FFmpeg would print their own messages about damaged files before the error is raised.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    return cv2
