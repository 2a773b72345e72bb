"""Masks and captions drawn over frames, in the colours of DAVIS annotations. Needs OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.captions import Caption, draw_captions
from etam_edge.media.sources import import_opencv
from etam_edge.runtimes.frames import as_frame
from etam_edge.runtimes.types import FrameResult

FILL = 0.45
"""Opacity of an object's colour."""


def davis_palette() -> np.ndarray:
    """The palette of DAVIS and PASCAL VOC annotations, uint8 (256, 3) RGB.

    The bits of a value set the high bits of the channels in turn: bit 0 the highest of red, bit 1 of green, bit 2 of
    blue, bit 3 the second highest of red, and so on.
    """
    values = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for depth in range(8):
        for channel in range(3):
            palette[:, channel] |= (((values >> (3 * depth + channel)) & 1) << (7 - depth)).astype(np.uint8)
    return palette


PALETTE = davis_palette()


def overlay(
    frame: np.ndarray | Image.Image, result: FrameResult, labels: Mapping[int, str] | None = None
) -> np.ndarray:
    """A picture of a frame with its result: each mask in a colour of its object, outlined, with id, name and score.

    Args:
        frame: that the result belongs to, uint8 (H, W, 3) RGB or a PIL image. It is not changed.
        result: of the same frame.
        labels: names of objects, by id. Pillow's font has Latin letters.

    Returns:
        uint8 (H, W, 3) RGB. (OpenCV's functions expect BGR: `picture[..., ::-1]`.)

    Raises:
        InputError: the frame cannot be used, or has another size than the masks.
        RuntimeUnavailableError: OpenCV is not installed.
    """
    pixels = as_frame(frame, "the frame")
    if pixels.shape[:2] != result.masks.shape[1:]:
        height, width = result.masks.shape[1:]
        raise InputError(
            f"the frame is {pixels.shape[1]} x {pixels.shape[0]} pixels and the result's masks are {width} x {height}; "
            "give the frame that was tracked"
        )
    return draw_result(import_opencv("overlay"), pixels, result, labels or {})


def draw_result(cv2: Any, pixels: np.ndarray, result: FrameResult, labels: Mapping[int, str]) -> np.ndarray:
    """As `overlay`, for a frame that is known to be of the result.

    Args:
        cv2: the module of OpenCV.
        pixels: uint8 (H, W, 3) RGB.
        result: of the frame.
        labels: names of objects, by id.
    """
    texts = [
        " ".join(filter(None, (str(object_id), labels.get(object_id), f"{score:.1f}")))
        for object_id, score in zip(result.object_ids, result.object_scores, strict=True)
    ]
    return draw_masks(cv2, pixels, result.object_ids, result.masks, texts)


def draw_masks(
    cv2: Any,
    pixels: np.ndarray,
    object_ids: Sequence[int],
    masks: Sequence[np.ndarray] | np.ndarray,
    texts: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw masks over a frame.

    Args:
        cv2: the module of OpenCV.
        pixels: uint8 (H, W, 3) RGB.
        object_ids: ids of the N objects, which select the colours.
        masks: bool (N, H, W).
        texts: captions of the objects; their ids by default. Objects without a pixel have none.

    Returns:
        uint8 (H, W, 3) RGB, a new array.
    """
    drawn = pixels.copy()
    for object_id, mask in zip(object_ids, masks, strict=True):
        # Only the rectangle around the mask is blended, to keep the time per frame of a video low.
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        window = drawn[y : y + height, x : x + width]
        if window.size:
            np.copyto(window, cv2.LUT(window, _tint(object_id)), where=mask[y : y + height, x : x + width, None])
    thickness = max(1, round(max(pixels.shape[:2]) / 500))
    captions = []
    for object_id, mask, text in zip(object_ids, masks, texts or list(map(str, object_ids)), strict=True):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            continue
        tone = colour(object_id)
        cv2.drawContours(drawn, outlines, -1, tuple(tone.tolist()), thickness)
        x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
        captions.append(Caption(text, (x + width // 2, y + height // 2), tone))
    draw_captions(drawn, captions)
    return drawn


def _tint(object_id: int) -> np.ndarray:
    """uint8 (1, 256, 3): a look-up table that blends the value of each channel with an object's colour."""
    values = np.arange(256, dtype=np.float32)[None, :, None]
    return ((1 - FILL) * values + FILL * colour(object_id)).round().astype(np.uint8)


def colour(object_id: int) -> np.ndarray:
    """An object's colour, float32 (3,) RGB. Consecutive ids have clearly different colours."""
    return PALETTE[1 + (object_id - 1) % 254].astype(np.float32)
