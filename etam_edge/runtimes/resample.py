"""Resizing as in the reference: frames with Pillow's bicubic filter, masks and logits bilinearly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) to (size, size, 3) with Pillow's bicubic filter, which antialiases. The aspect ratio may change.

    Bit-identical to the reference's loader of JPEG folders, which makes the same call.
    """
    if frame.shape[:2] == (size, size):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) to (size, size, 3) with Pillow's bilinear filter, which antialiases. The aspect ratio may change.

    The reference's image predictor uses the same filter on floating-point numbers, and does not round to 0 to 255.
    """
    if image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resize_bilinear(images: np.ndarray, height: int, width: int, antialias: bool = False) -> np.ndarray:
    """float32 (..., h, w) to (..., height, width), bilinearly, with `align_corners=False`.

    Args:
        images: any number of leading axes.
        height, width: of the result.
        antialias: average over all source pixels that a target pixel covers where an axis shrinks (a triangle filter),
            as `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` does. Otherwise each target pixel is
            interpolated between its two nearest source pixels on either axis.
    """
    if images.shape[-2:] == (height, width):
        return images
    if antialias:
        return _weights(images.shape[-2], height) @ images @ _weights(images.shape[-1], width).T
    # This runs on every frame and avoids matrix products: the threads of NumPy's BLAS spin while they wait for each
    # other, which takes ten times as long as the work where the cores are busy.
    return _between(_between(images, -1, width), -2, height)


def _between(images: np.ndarray, axis: int, target: int) -> np.ndarray:
    """Resize one axis, each target pixel interpolated between its two nearest source pixels."""
    lower, upper, share = _neighbours(images.shape[axis], target)
    result = images.take(upper, axis)
    before = images.take(lower, axis)
    result -= before
    result *= share if axis == -1 else share[:, None]
    result += before
    return result


@lru_cache(maxsize=32)
def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each target pixel, the indices of the source pixels before and after it, and the weight of the latter.

    Returns:
        intp (target,), intp (target,), float32 (target,).
    """
    # Centres outside the image take the value of its border.
    centre = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    lower = centre.astype(np.intp)
    return lower, np.minimum(lower + 1, source - 1), (centre - lower).astype(np.float32)


@lru_cache(maxsize=32)
def _weights(source: int, target: int) -> np.ndarray:
    """Weight of every source pixel in every antialiased target pixel, float32 (target, source)."""
    step = source / target
    reach = max(step, 1.0)
    centre = (np.arange(target) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(np.arange(source) - centre[:, None]) / reach, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
