"""Clips in DAVIS layout: a bright disc that moves and a square that stands still, with palette annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from etam_edge.media import crossing
from etam_edge.media.overlay import PALETTE
from etam_edge_testing.small import clip_frame

HEIGHT, WIDTH = 96, 151
DISC, SQUARE, VOID = 1, 2, 255


def frame(index: int) -> np.ndarray:
    """Return a frame, uint8 (HEIGHT, WIDTH, 3) RGB."""
    pixels = clip_frame(index, HEIGHT, WIDTH)
    pixels[_square()] = (40, 60, 220)
    return pixels


def labels(index: int) -> np.ndarray:
    """Return the annotation of a frame, uint8 (HEIGHT, WIDTH): 0, DISC or SQUARE."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[clip_frame(index, HEIGHT, WIDTH)[..., 2] == 60] = DISC
    values[_square()] = SQUARE
    return values


def _square() -> tuple[slice, slice]:
    return slice(8, 40), slice(6, 40)


def write_clip(
    root: Path,
    name: str,
    frames: int = 8,
    annotated: Sequence[int] | None = None,
    annotations: Mapping[int, np.ndarray] | None = None,
) -> None:
    """Write one clip.

    Args:
        root: folder that gets JPEGImages and Annotations.
        name: of the clip.
        frames: number of frames.
        annotated: indices of the frames that have an annotation; None for all.
        annotations: annotations to use instead of `labels`, by frame index.
    """
    images, masks = root / "JPEGImages" / name, root / "Annotations" / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for index in range(frames):
        Image.fromarray(frame(index)).save(images / f"{index:05d}.png")
        if annotated is None or index in annotated:
            values = (annotations or {}).get(index)
            image = Image.fromarray(labels(index) if values is None else values, mode="P")
            image.putpalette(PALETTE.tobytes())
            image.save(masks / f"{index:05d}.png")


def write_crossing(root: Path, frames: int) -> None:
    """Write the first frames of the package's drawn clip, a ball and a box, as the only clip of a layout."""
    images, masks = crossing()
    labels_of = masks[:, 0] + 2 * masks[:, 1].astype(np.uint8)
    for part, arrays in (("JPEGImages", images), ("Annotations", labels_of)):
        folder = root / part / "crossing"
        folder.mkdir(parents=True)
        for index in range(frames):
            Image.fromarray(arrays[index]).save(folder / f"{index:05d}.png")
