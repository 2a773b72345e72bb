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
    rows = _weights(images.shape[-2], height, antialias)
    columns = _weights(images.shape[-1], width, antialias)
    return rows @ images @ columns.T


@lru_cache(maxsize=32)
def _weights(source: int, target: int, antialias: bool) -> np.ndarray:
    """Share of every source pixel in every target pixel, float32 (target, source)."""
    step = source / target
    reach = max(step, 1.0) if antialias else 1.0
    centre = (np.arange(target) + 0.5) * step - 0.5
    if not antialias:
        # Centres beyond the border take the border's value.
        centre = centre.clip(0, source - 1)
    weights = np.clip(1 - np.abs(np.arange(source) - centre[:, None]) / reach, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
