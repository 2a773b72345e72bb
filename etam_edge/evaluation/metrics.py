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
"""Boundaries match within this share of the frame's diagonal."""


def region_similarity(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """J: intersection over union of two bool (H, W) masks; 1 where both are empty. Void pixels do not count.

    Raises:
        InputError: their shapes differ.
    """
    mask, truth = _counted(mask, truth, void)
    union = np.count_nonzero(mask | truth)
    return 1.0 if union == 0 else np.count_nonzero(mask & truth) / union


def boundary_measure(
    mask: np.ndarray, truth: np.ndarray, tolerance: float = BOUNDARY_TOLERANCE, void: np.ndarray | None = None
) -> float:
    """F: harmonic mean of precision and recall of the mask's boundary, within the tolerance.

    Args:
        mask, truth: bool (H, W).
        tolerance: a share of the diagonal, or pixels where it is 1 or more.
        void: bool (H, W), pixels that belong to neither mask.

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
    """bool (H, W): pixels that differ from their neighbour to the right, below, or both."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def evaluated_mean(values: Sequence[float]) -> float:
    """Mean over a clip's frames without the first, which was given, and the last, as DAVIS averages.

    Raises:
        InputError: fewer than three frames.
    """
    if len(values) < 3:
        raise InputError(f"a clip of {len(values)} frames has none between its first and its last; give a longer one")
    return float(np.mean(values[1:-1]))


def _counted(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both masks without the void pixels."""
    if mask.shape != truth.shape or mask.ndim != 2:
        raise InputError(f"masks of shapes {mask.shape} and {truth.shape} cannot be compared; both must be (H, W)")
    return (mask, truth) if void is None else (mask & ~void, truth & ~void)
