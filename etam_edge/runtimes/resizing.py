"""Resizing on the host: exactly as the reference does, or faster with OpenCV."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError, RuntimeUnavailableError, shown
from etam_edge.runtimes.resample import resize_bilinear, resize_frame

EXACT, FAST = "exact", "fast"


class Resizing(Protocol):
    """Resizes frames to the model's image size, and masks to the frame's.

    Attributes:
        name: value of the option `resize` that selects it.
    """

    name: str

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        """uint8 (H, W, 3) to (size, size, 3), contiguous."""

    def masks(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        """Logits, float32 (N, h, w), to masks, bool (N, height, width): true where the resized logits are above 0."""


class ExactResizing:
    """As the reference: frames with Pillow's bicubic filter, masks bilinearly."""

    name = EXACT

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        return resize_frame(frame, size)

    def masks(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        masks: np.ndarray = resize_bilinear(logits, height, width) > 0
        return masks


class FastResizing:
    """With OpenCV: an axis that shrinks is averaged over areas, one that grows is interpolated linearly.

    Masks equal the exact ones up to rounding. Frames differ by less than one level of 255 on average, by more at edges
    (docs/camera_to_mask.md).

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """

    name = FAST

    def __init__(self) -> None:
        self._cv2 = _import_opencv()

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        cv2 = self._cv2
        height, width = frame.shape[:2]
        # INTER_AREA only averages where both axes shrink, so axes that grow are resized in a second step.
        smaller = min(width, size), min(height, size)
        if smaller != (width, height):
            frame = cv2.resize(frame, smaller, interpolation=cv2.INTER_AREA)
        if smaller != (size, size):
            frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(frame)

    def masks(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        cv2, masks = self._cv2, np.empty((len(logits), height, width), dtype=bool)
        for one, mask in zip(logits, masks, strict=True):
            np.greater(cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR), 0, out=mask)
        return masks


def choose_resizing(bundle: Bundle, name: str) -> Resizing:
    """The way of resizing that an option names.

    Args:
        bundle: that the session runs.
        name: "exact" or "fast".

    Raises:
        InputError: the name is not known, or it is "fast" and the bundle resizes in its graphs.
        RuntimeUnavailableError: OpenCV is needed and not installed.
    """
    if not isinstance(name, str):
        raise InputError(f"resize {shown(name)} is not known; use {EXACT} or {FAST}")
    size = bundle.manifest.sizes.frame_size
    if name == FAST and size is not None:
        raise InputError(
            f'resize="fast" is for frames that the host resizes, and {bundle.path} takes frames of {size[1]} x '
            f"{size[0]} and resizes them in its graphs; leave it out"
        )
    if name == EXACT:
        return ExactResizing()
    if name == FAST:
        return FastResizing()
    raise InputError(f"resize '{name}' is not known; use {EXACT} or {FAST}")


def _import_opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise RuntimeUnavailableError(
            'resize="fast" needs OpenCV; install it with: pip install "etam-edge[video]", or use resize="exact"'
        ) from error
    return cv2
