"""Small holes and separate parts of masks."""

from __future__ import annotations

import numpy as np

from etam_edge.errors import RuntimeUnavailableError

CLEANED_LOGIT = 10.0
"""Logit, up to its sign, of pixels whose region is filled or removed in an image."""
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
    return np.where(_small_regions(mask_logits <= 0, max_area, "fill_hole_area"), np.float32(FILLED_LOGIT), mask_logits)


def clean(mask_logits: np.ndarray, max_area: int) -> np.ndarray:
    """Fill holes and remove separate parts of at most `max_area` pixels (8-connected), at logits of +-10.

    The reference's image predictor does this (`postprocess_masks`) where its CUDA extension was built.

    Args:
        mask_logits: float32 (H, W).
        max_area: pixels.

    Returns:
        float32 (H, W), a new array.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    holes = _small_regions(mask_logits <= 0, max_area, "min_mask_region_area")
    parts = _small_regions(mask_logits > 0, max_area, "min_mask_region_area")
    return np.where(parts, np.float32(-CLEANED_LOGIT), np.where(holes, np.float32(CLEANED_LOGIT), mask_logits))


def _small_regions(marked: np.ndarray, max_area: int, option: str) -> np.ndarray:
    """bool (H, W): the regions of `marked`, bool (H, W), with at most `max_area` pixels."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeUnavailableError(
            f'`{option}` needs OpenCV; install it with: pip install "etam-edge[video]", or use {option}=0'
        ) from error
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is what is not marked
    chosen: np.ndarray = small[labels]
    return chosen
