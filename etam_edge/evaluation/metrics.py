"""Region similarity J and boundary measure F, as the DAVIS evaluation computes them.

Perazzi et al., *A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation*, CVPR 2016, section 4;
details (empty masks, boundary pixels, tolerance) as in the official 2017 evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from etam_edge.errors import InputError

BOUNDARY_TOLERANCE = 0.008
"""Distance within which boundary pixels match, as a share of the frame's diagonal."""


def region_similarity(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """Region similarity J: intersection over union of two masks, without void pixels; 1 if both are empty.

    Args:
        mask, truth: bool (H, W).
        void: bool (H, W), pixels that are ignored.

    Raises:
        InputError: their shapes differ.
    """
    mask, truth = _counted(mask, truth, void)
    union = np.count_nonzero(mask | truth)
    return 1.0 if union == 0 else np.count_nonzero(mask & truth) / union


def boundary_measure(
    mask: np.ndarray, truth: np.ndarray, tolerance: float = BOUNDARY_TOLERANCE, void: np.ndarray | None = None
) -> float:
    """Boundary measure F: harmonic mean of precision and recall of the boundary pixels, within the tolerance.

    Args:
        mask, truth: bool (H, W).
        tolerance: in pixels if it is 1 or more, else a share of the diagonal.
        void: bool (H, W), pixels that are ignored.

    Raises:
        InputError: their shapes differ.
    """
    import cv2

    mask, truth = _counted(mask, truth, void)
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*mask.shape))
    ours, theirs = boundary(mask), boundary(truth)
    count, wanted = np.count_nonzero(ours), np.count_nonzero(theirs)
    if count == 0 or wanted == 0:
        return 1.0 if count == wanted else 0.0
    side = np.arange(-radius, radius + 1)
    disc = (side[:, None] ** 2 + side[None] ** 2 <= radius**2).astype(np.uint8)
    near_theirs = cv2.dilate(theirs.view(np.uint8), disc) > 0
    near_ours = cv2.dilate(ours.view(np.uint8), disc) > 0
    precision = np.count_nonzero(ours & near_theirs) / count
    recall = np.count_nonzero(theirs & near_ours) / wanted
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a mask: those that differ from a neighbour to the right, below, or diagonally below.

    Returns:
        bool (H, W).
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def evaluated_mean(values: Sequence[float]) -> float:
    """Mean over a clip's frames without the first, which has the prompt, and the last, as DAVIS averages.

    Raises:
        InputError: fewer than three frames.
    """
    if len(values) < 3:
        raise InputError(f"a clip of {len(values)} frames has none between its first and its last; give a longer one")
    return float(np.mean(values[1:-1]))


def _counted(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both masks, False on void pixels."""
    if mask.shape != truth.shape or mask.ndim != 2:
        raise InputError(f"masks of shapes {mask.shape} and {truth.shape} cannot be compared; both must be (H, W)")
    return (mask, truth) if void is None else (mask & ~void, truth & ~void)
