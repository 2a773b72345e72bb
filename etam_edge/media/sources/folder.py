"""A folder of images as a source of frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.sources.depth import SAMPLED_IMAGES, DepthRange, found_range
from etam_edge.media.sources.images import IMAGE_SUFFIXES, is_deep, load_frame, read_image
from etam_edge.media.sources.types import Cause, Ending, NamedFrame, SourceOptions


class ImageFolder:
    """The images of a folder, in the natural order of their names: 2.jpg before 10.jpg.

    Args:
        path: of the folder.
        options: of which `depth_range` and the section are used.

    Attributes:
        files: paths of the images, in that order.

    Raises:
        InputError: the folder cannot be read, holds no images, or two with the same stem, or ends before the section.
    """

    is_live = False
    frames_per_second: float | None = None

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        self.stem = path.resolve().name
        self.path: Path | None = path
        self.ending: Ending | None = None
        self._closed = False
        options = options or SourceOptions()
        try:
            found = [file for file in path.iterdir() if _is_frame(file)]
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); name another folder") from error
        self.files = sorted(found, key=_natural_order)
        if not self.files:
            raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); name a folder that does")
        stems = [file.stem for file in self.files]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InputError(f"{path} holds several images named {twice}; keep one kind of file in the folder")
        self._read = options.section.frames(len(self.files), str(path))
        self.length: int | None = len(self._read)
        first = load_frame(self.files[self._read.start])
        self.frame_shape: tuple[int, int] = (first.height, first.width)
        self._depth = self._range(options.depth_range) if is_deep(first) else None
        if self._depth is None and options.depth_range is not None:
            raise InputError(
                f"{self.files[0]} is an image of 8 bits, and `depth_range` is for grey images of more; leave it out"
            )
        self.depth_range = None if self._depth is None else (self._depth.low, self._depth.high)

    def _range(self, given: tuple[float, float] | None) -> DepthRange:
        if given is not None:
            return DepthRange(*given)
        places = np.unique(np.linspace(self._read.start, self._read.stop - 1, SAMPLED_IMAGES).round().astype(int))
        images = (load_frame(self.files[place]) for place in places)
        return found_range(np.asarray(image) for image in images if is_deep(image))

    def count(self) -> int | None:
        return self.length

    def close(self) -> None:
        self._closed = True

    def __iter__(self) -> Iterator[NamedFrame]:
        self.ending = None
        given, cause = 0, Cause.CLOSED
        try:
            for index in self._read:
                if self._closed:
                    return
                file = self.files[index]
                frame = NamedFrame(file.stem, read_image(file, self._depth), index, image=file.name)
                given += 1
                yield frame
            cause = Cause.END
        finally:
            self.ending = Ending(cause, given)


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and not file.is_dir()


def _natural_order(file: Path) -> tuple[list[str | int], str]:
    """A sort key that puts 2 before 10: the name split into text and numbers, which alternate."""
    parts = re.split(r"([0-9]+)", file.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], file.name
