"""Frames that never end and prompts for any number of objects, out of a file or drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media import crossing
from etam_edge.media.sources import FrameSource, VideoFile
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import check_frame_size


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """A frame, uint8 (H, W, 3) RGB, and the milliseconds it took to read; None where that is not worth telling."""

    pixels: np.ndarray
    decode: float | None


@dataclass(frozen=True, eq=False)
class BenchClip:
    """Frames, repeated as often as is needed. What they show hardly matters: every frame takes the same operations.

    Attributes:
        name: of the source.
        frame_shape: (H, W) in pixels.
        decoded: whether frames are read from a file, which takes time.
        round: all frames once, uint8 (H, W, 3) RGB.
        opens: whether a round opens a file before its first frame.
        masks: bool (H, W), of objects on the first frame, where they are known.
    """

    name: str
    frame_shape: tuple[int, int]
    decoded: bool
    round: Callable[[], Iterator[np.ndarray]]
    opens: bool = False
    masks: Sequence[np.ndarray] = ()

    def prompts(self, count: int) -> dict[int, Prompt]:
        """For objects 1 to `count` on the first frame: known masks first, boxes on a grid for the others."""
        known = [Prompt(mask=mask) for mask in self.masks[:count]]
        boxes = [Prompt(box=box) for box in grid_boxes(count - len(known), self.frame_shape)]
        return dict(enumerate([*known, *boxes], 1))

    def frames(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[TimedFrame]:
        """Frames without end, each timed as it is read. A round's first frame is not where it also opens the file.

        Raises:
            InputError: a frame cannot be read any more.
        """
        while True:
            reading = self.round()
            opening = self.opens
            while True:
                begin = clock()
                pixels = next(reading, None)
                milliseconds = 1e3 * (clock() - begin)
                if pixels is None:
                    break
                yield TimedFrame(pixels, milliseconds if self.decoded and not opening else None)
                opening = False


def grid_boxes(count: int, frame_shape: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """Boxes (x0, y0, x1, y1) in pixels, each the middle of its cell of a grid; one box is the middle of the frame."""
    if not count:
        return []
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    height, width = frame_shape[0] / rows, frame_shape[1] / columns
    return [
        ((column + 0.25) * width, (row + 0.25) * height, (column + 0.75) * width, (row + 0.75) * height)
        for row, column in (divmod(number, columns) for number in range(count))
    ]


def clip_of_source(source: FrameSource) -> BenchClip:
    """The frames of a video file or a folder of images.

    Raises:
        InputError: it is a camera.
    """
    if source.path is None:
        raise InputError(
            "a camera gives frames at its own pace: nothing can be measured on it; name a video or a folder of images"
        )
    return BenchClip(
        name=source.path.name or source.stem,
        frame_shape=source.frame_shape,
        decoded=True,
        round=lambda: (frame.pixels for frame in source),
        opens=isinstance(source, VideoFile),
    )


def drawn_clip(frame_shape: tuple[int, int] | None = None) -> BenchClip:
    """The package's drawn clip of a ball and a box, 240 x 320 or scaled to another (H, W).

    Raises:
        InputError: the size is out of range.
    """
    images, masks = crossing()
    shape = frame_shape or (images.shape[1], images.shape[2])
    height, width = shape
    check_frame_size(shape)

    def scaled(image: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((width, height), how)) if image.shape[:2] != shape else image

    # Scaled one by one, as they are needed: a whole clip of large frames would show in the process's memory.
    return BenchClip(
        name="drawn",
        frame_shape=shape,
        decoded=False,
        round=lambda: (scaled(image, Image.Resampling.BILINEAR) for image in images),
        masks=[scaled(mask, Image.Resampling.NEAREST) for mask in masks[0]],
    )
