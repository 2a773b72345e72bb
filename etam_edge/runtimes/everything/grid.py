"""Where to look: grids of points, and crops of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from etam_edge.errors import InputError
from etam_edge.runtimes.everything.options import EverythingOptions


class Crop(NamedTuple):
    """A part of the image, in pixels, (x1, y1) beyond its last pixel."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)"""
        return self.y1 - self.y0, self.x1 - self.x0


def crops(shape: tuple[int, int], layers: int, overlap_ratio: float) -> list[tuple[Crop, int]]:
    """The whole image, then the crops of each layer, with the number of their layer.

    Layer i has 2 ** i crops along each side. They overlap by `overlap_ratio` of the shorter side in the first layer, by
    half of that in the second, and so on.
    """
    height, width = shape
    found = [(Crop(0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(shape) * 2 / count)
        crop_width, crop_height = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        lefts, tops = ([(size - overlap) * i for i in range(count)] for size in (crop_width, crop_height))
        for x0, y0 in product(lefts, tops):
            found.append((Crop(x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)), layer))
    return found


def point_grids(options: EverythingOptions) -> list[np.ndarray]:
    """For the image and each layer of crops, points (P, 2) as (x, y) in shares of the sides, row by row."""
    if options.point_grids is not None:
        return [np.asarray(grid, dtype=np.float64) for grid in options.point_grids]
    if options.points_per_side is None:
        raise InputError("`points_per_side` and `point_grids` are both missing; give one of them")
    factor = options.crop_n_points_downscale_factor
    return [_grid(max(1, options.points_per_side // factor**layer)) for layer in range(options.crop_n_layers + 1)]


def inside(points: np.ndarray, region: Sequence[float] | np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """bool (P,): which points, (P, 2) in pixels of an image of (H, W), lie in the region.

    Raises:
        InputError: the region is neither a box nor a mask of this image.
    """
    if region is None:
        return np.ones(len(points), dtype=bool)
    area = np.asarray(region)
    if area.dtype == np.bool_:
        if area.shape != shape:
            raise InputError(f"`region` is a mask of shape {area.shape} and the image is {shape}; give them alike")
        columns, rows = points.astype(np.intp).T
        return np.asarray(area[rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)])
    numeric = area.shape == (4,) and area.dtype.kind in "iuf" and np.isfinite(area).all()
    if not numeric or not (area[0] < area[2] and area[1] < area[3]):
        raise InputError("`region` is neither a box (x0, y0, x1, y1) with x0 < x1 and y0 < y1 nor a bool mask (H, W)")
    return np.asarray(((points >= area[:2]) & (points < area[2:])).all(axis=1))


def _grid(side: int) -> np.ndarray:
    steps = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
