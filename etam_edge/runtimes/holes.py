"""Filling small holes in masks of prompted objects."""

from __future__ import annotations

import numpy as np

from etam_edge.errors import RuntimeUnavailableError

FILLED_LOGIT = 0.1
"""Logit of a filled pixel, as in the reference (`fill_holes_in_mask_scores`)."""


def fill_holes(mask_logits: np.ndarray, max_area: int) -> np.ndarray:
    """Set background regions of at most `max_area` pixels (8-connected) to the foreground, at logit 0.1.

    The reference does this where its CUDA extension was built, and not elsewhere, for example on a CPU.

    Args:
        mask_logits: float32 (H, W).
        max_area: pixels.

    Returns:
        float32 (H, W), a new array.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise RuntimeUnavailableError(
            'filling holes needs OpenCV; install it with: pip install "etam-edge[video]", or use fill_hole_area=0'
        ) from error
    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask_logits <= 0).astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is the mask's foreground
    return np.where(small[labels], np.float32(FILLED_LOGIT), mask_logits)
