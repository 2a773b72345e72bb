"""Short texts beside objects in a picture, moved apart where they would cover each other."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 11, 40
"""Size of the font, in pixels."""
SIDES_PER_SIZE = 45
"""Longer side of the frame, in sizes of the font."""
PADDING, BAR, GAP = 3, 4, 2
"""Pixels around the text, of the bar in the object's colour before it, and between two captions."""
BACKGROUND, OPACITY = 24, 0.65
"""Grey value behind the text, and how much of it is seen."""


@dataclass(frozen=True)
class Caption:
    """A text that belongs to an object.

    Attributes:
        text: one line.
        centre: (x, y) where it is best placed, in pixels.
        colour: uint8 or float (3,) RGB of the object.
    """

    text: str
    centre: tuple[int, int]
    colour: np.ndarray


def draw_captions(pixels: np.ndarray, captions: Sequence[Caption]) -> None:
    """Draw captions into a picture. None covers another one while there is room above or below.

    Args:
        pixels: uint8 (H, W, 3) RGB, which is changed.
        captions: the first ones get the places they ask for.
    """
    size = min(max(round(max(pixels.shape[:2]) / SIDES_PER_SIZE), SMALLEST), LARGEST)
    taken: list[tuple[int, int, int, int]] = []
    for caption in captions:
        letters = _letters(caption.text, size)
        height, width = letters.shape[0] + 2 * PADDING, letters.shape[1] + 2 * PADDING + BAR
        box = _free_place(caption.centre, width, height, pixels.shape[:2], taken)
        taken.append(box)
        _draw(pixels, box, letters, caption.colour)


def _free_place(
    centre: tuple[int, int], width: int, height: int, shape: tuple[int, int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) near the centre, inside the frame, where nothing is yet; the centre where all is taken."""
    x = min(max(centre[0] - width // 2, 0), max(shape[1] - width, 0))
    first = min(max(centre[1] - height // 2, 0), max(shape[0] - height, 0))
    for y in _alternating(first, height + GAP, max(shape[0] - height, 0)):
        box = x, y, x + width, y + height
        if not any(_overlap(box, other) for other in taken):
            return box
    return x, first, x + width, first + height


def _alternating(first: int, step: int, last: int) -> Iterator[int]:
    """The first value, then below and above it in growing steps, from 0 to `last`."""
    yield first
    for distance in range(step, last + step, step):
        yield from (value for value in (first + distance, first - distance) if 0 <= value <= last)


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return box[0] < other[2] + GAP and other[0] < box[2] + GAP and box[1] < other[3] + GAP and other[1] < box[3] + GAP


def _draw(pixels: np.ndarray, box: tuple[int, int, int, int], letters: np.ndarray, colour: np.ndarray) -> None:
    x0, y0, x1, y1 = box
    window = pixels[y0:y1, x0:x1]
    alpha = np.zeros((y1 - y0, x1 - x0, 1), dtype=np.float32)
    alpha[PADDING : PADDING + letters.shape[0], BAR + PADDING : BAR + PADDING + letters.shape[1], 0] = letters
    # What lies outside a frame smaller than the caption is cut off.
    alpha = alpha[: window.shape[0], : window.shape[1]]
    shaded = (1 - OPACITY) * window + OPACITY * BACKGROUND
    window[:] = ((1 - alpha) * shaded + alpha * 255).round().astype(np.uint8)
    window[:, :BAR] = np.asarray(colour).round().astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _letters(text: str, size: int) -> np.ndarray:
    """Coverage of a text, float32 (height, width) from 0 to 1. All texts of a size have one height."""
    font = _font(size)
    _, top, _, bottom = font.getbbox("Ag")
    width = max(1, round(font.getlength(text)))
    image = Image.new("L", (width, max(1, round(bottom - top))))
    ImageDraw.Draw(image).text((0, -top), text, font=font, fill=255)
    return np.asarray(image, dtype=np.float32) / 255


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which has Latin letters. Pillow before 10.1 has it in one size."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()
