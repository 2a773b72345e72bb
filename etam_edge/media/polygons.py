"""Masks as polygons, for formats that hold nothing else. Vertices are centres of pixels on the mask's border.

A polygon that is filled with its border, as Pillow and OpenCV fill it, gives the mask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def parts_of(cv2: Any, mask: np.ndarray) -> list[np.ndarray]:
    """The separate parts of a mask, each as one polygon whose holes are linked to its outline.

    Args:
        cv2: the module of OpenCV.
        mask: bool (H, W).

    Returns:
        for each part int (V, 2), V >= 3, as (x, y); the largest outline first. Where a part is one pixel or a line,
        vertices are repeated.
    """
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    outlines = [contour.reshape(-1, 2) for contour in contours]
    parents = hierarchy.reshape(-1, 4)[:, 3]
    parts = []
    for index in np.flatnonzero(parents < 0):
        parts.append(linked([outlines[index], *(outlines[hole] for hole in np.flatnonzero(parents == index))]))
    return sorted(parts, key=lambda part: -float(np.ptp(part[:, 0]) * np.ptp(part[:, 1])))


def linked(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """Several outlines as one polygon, linked where they are nearest. A link is passed once in each direction.

    Args:
        outlines: int (V, 2) each; the first one is the beginning.

    Returns:
        int (V, 2), at least three vertices.
    """
    path, rest = outlines[0], list(outlines[1:])
    while rest:
        nearest = [_nearest(path, outline) for outline in rest]
        number = min(range(len(rest)), key=lambda index: nearest[index][0])
        _, here, there = nearest[number]
        other = rest.pop(number)
        path = np.concatenate((path[: here + 1], other[there:], other[: there + 1], path[here:]))
    while len(path) < 3:
        path = np.concatenate((path, path[-1:]))
    return path


def _nearest(path: np.ndarray, outline: np.ndarray) -> tuple[int, int, int]:
    """The smallest squared distance between vertices of both, and the indices of the two vertices."""
    best = (1 << 62, 0, 0)
    # In parts, so that two long outlines do not need a table of all pairs.
    for start in range(0, len(path), 512):
        apart = path[start : start + 512, None].astype(np.int64) - outline[None]
        squared = (apart**2).sum(axis=-1)
        place = int(squared.argmin())
        here, there = divmod(place, len(outline))
        best = min(best, (int(squared[here, there]), start + here, there))
    return best
