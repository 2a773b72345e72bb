"""How a session resizes on the host: exactly as the reference, or faster with OpenCV."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from etam_edge.bundle import Bundle
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.runtimes.resample import resize_bilinear, resize_frame

EXACT, FAST = "exact", "fast"


class Resizing(Protocol):
    """Frames to the model's size, masks to the frame's.

    Attributes:
        name: what it is asked for by.
    """

    name: str

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        """uint8 (H, W, 3) to (size, size, 3)."""

    def masks(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 (N, h, w) to bool (N, height, width): where the enlarged logits are above zero."""


class ExactResizing:
    """As the reference: frames through Pillow's bicubic filter, masks bilinearly."""

    name = EXACT

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        return resize_frame(frame, size)

    def masks(self, logits: np.ndarray, height: int, width: int) -> np.ndarray:
        masks: np.ndarray = resize_bilinear(logits, height, width) > 0
        return masks


class FastResizing:
    """With OpenCV: an axis that shrinks is averaged over areas, one that grows is interpolated linearly.

    Masks differ from the exact ones by rounding only; frames by a level or two on average, more at edges.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """

    name = FAST

    def __init__(self) -> None:
        self._cv2 = _import_opencv()

    def frame(self, frame: np.ndarray, size: int) -> np.ndarray:
        cv2 = self._cv2
        height, width = frame.shape[:2]
        # OpenCV does not average where one axis grows, so that goes by itself.
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
    """How sessions of a bundle resize.

    Args:
        bundle: whose frames they are.
        name: "exact" or "fast".

    Raises:
        InputError: the name is not known, or has no meaning for a bundle that resizes in its graphs.
        RuntimeUnavailableError: OpenCV is needed and not installed.
    """
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
