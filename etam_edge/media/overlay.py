"""Masks drawn over frames, in the colours of DAVIS annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FILL = 0.45
"""Share of an object's colour in its overlay."""


def davis_palette() -> np.ndarray:
    """uint8 (256, 3): the colours of DAVIS and PASCAL VOC annotations; each bit of a value sets one of a channel."""
    values = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for depth in range(8):
        for channel in range(3):
            palette[:, channel] |= (((values >> (3 * depth + channel)) & 1) << (7 - depth)).astype(np.uint8)
    return palette


PALETTE = davis_palette()


def overlay(
    cv2: Any, pixels: np.ndarray, object_ids: Sequence[int], masks: Sequence[np.ndarray] | np.ndarray
) -> np.ndarray:
    """uint8 (H, W, 3) RGB: masks filled in their object's colour, outlined, and numbered."""
    drawn = pixels.copy()
    for object_id, mask in zip(object_ids, masks, strict=True):
        # Only the mask's own rectangle: a stream's frame time is not to be spent here.
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        window = drawn[y : y + height, x : x + width]
        if window.size:
            np.copyto(window, cv2.LUT(window, _tint(object_id)), where=mask[y : y + height, x : x + width, None])
    scale = max(pixels.shape[:2]) / 1000
    for object_id, mask in zip(object_ids, masks, strict=True):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            continue
        tone = tuple(int(value) for value in colour(object_id))
        cv2.drawContours(drawn, outlines, -1, tone, max(1, round(2 * scale)))
        x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
        place = (x + width // 2, max(y + height // 2, round(20 * scale)))
        for shade, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            weight = max(1, round(thickness * max(scale, 0.5)))
            cv2.putText(
                drawn, str(object_id), place, cv2.FONT_HERSHEY_SIMPLEX, max(scale, 0.4), shade, weight, cv2.LINE_AA
            )
    return drawn


def _tint(object_id: int) -> np.ndarray:
    """uint8 (1, 256, 3): what each value of a channel becomes under an object's colour."""
    values = np.arange(256, dtype=np.float32)[None, :, None]
    return ((1 - FILL) * values + FILL * colour(object_id)).round().astype(np.uint8)


def colour(object_id: int) -> np.ndarray:
    """float32 (3,): an object's colour; neighbouring ids differ plainly."""
    return PALETTE[1 + (object_id - 1) % 254].astype(np.float32)
