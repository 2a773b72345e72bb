"""Which masks are kept: boxes, suppression of doubles, and masks that a crop cuts off.

Boxes here are those of the reference: (x1, y1) is the last pixel itself, and a box has the area (x1 - x0) * (y1 - y0).
"""

from __future__ import annotations

import numpy as np

from etam_edge.runtimes.everything.grid import Crop
from etam_edge.runtimes.types import mask_box

EDGE = 20.0
"""A box within this many pixels of a crop's edge is taken for cut off."""


def inclusive_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around a mask, bool (H, W), with (x1, y1) its last pixel; zeros where it is empty."""
    x0, y0, x1, y1 = mask_box(mask)
    return (x0, y0, x1 - 1, y1 - 1) if x1 else (0, 0, 0, 0)


def cut_off(box: tuple[int, int, int, int], crop: Crop, image: Crop) -> bool:
    """Whether a box, in pixels of the image, ends at an edge of the crop that is no edge of the image."""
    sides = zip(box, crop, image, strict=True)
    return any(abs(side - edge) <= EDGE and abs(side - limit) > EDGE for side, edge, limit in sides)


def without_doubles(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression of boxes.

    Args:
        boxes: (N, 4).
        scores: (N,); of equal ones, the first is preferred.
        threshold: IoU above which the box with the lower score is dropped.

    Returns:
        intp (K,), indices of the boxes that are kept, the highest score first.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        low, high = np.maximum(boxes[order, :2], boxes[first, :2]), np.minimum(boxes[order, 2:], boxes[first, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        # Not divided: a box that is a line has no area, and overlaps with nothing.
        order = order[shared <= threshold * (areas[order] + areas[first] - shared)]
    return np.array(kept, dtype=np.intp)
