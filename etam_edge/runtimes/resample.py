"""Resizing as the reference does it: frames through Pillow's bicubic filter, masks and logits bilinearly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) to (size, size, 3), the aspect ratio given up: Pillow's bicubic filter, which antialiases.

    The same call as the reference's JPEG loader, bit for bit.
    """
    if frame.shape[:2] == (size, size):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))


def resize_bilinear(images: np.ndarray, height: int, width: int, antialias: bool = False) -> np.ndarray:
    """float32 (..., h, w) to (..., height, width), pixel centres aligned (`align_corners=False`).

    With `antialias`, shrinking averages over the source pixels (a triangle as wide as the step), as
    `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` does; without it, two neighbours count.
    """
    if images.shape[-2:] == (height, width):
        return images
    if antialias:
        return _weights(images.shape[-2], height) @ images @ _weights(images.shape[-1], width).T
    # No matrix products here, once a frame: the threads of NumPy's BLAS spin while they wait for each other, and on
    # busy cores that takes ten times as long as the work.
    return _between(_between(images, -1, width), -2, height)


def _between(images: np.ndarray, axis: int, target: int) -> np.ndarray:
    """One axis resized, each target pixel between its two nearest source pixels."""
    lower, upper, share = _neighbours(images.shape[axis], target)
    result = images.take(upper, axis)
    before = images.take(lower, axis)
    result -= before
    result *= share if axis == -1 else share[:, None]
    result += before
    return result


@lru_cache(maxsize=32)
def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the source pixels before and after every target pixel, and the share of the one after, (target,)."""
    # Centres beyond the border take the border's value.
    centre = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    lower = centre.astype(np.intp)
    return lower, np.minimum(lower + 1, source - 1), (centre - lower).astype(np.float32)


@lru_cache(maxsize=32)
def _weights(source: int, target: int) -> np.ndarray:
    """Share of every source pixel in every antialiased target pixel, float32 (target, source)."""
    step = source / target
    reach = max(step, 1.0)
    centre = (np.arange(target) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(np.arange(source) - centre[:, None]) / reach, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
