"""Options of everything mode: names and defaults of the reference's automatic mask generator, and three more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etam_edge.errors import InputError


@dataclass(frozen=True, eq=False)
class EverythingOptions:
    """What `Segmenter.everything` looks for, and what it keeps.

    `region`, `max_area` and `top_k` are not options of the reference; all others have its names and defaults.

    Attributes:
        points_per_side: points along one side of the grid; the time grows with its square. None with `point_grids`.
        points_per_batch: points decoded together; fewer where they would not fit into memory.
        pred_iou_thresh: masks with a predicted IoU up to this value are dropped; 0 keeps all.
        stability_score_thresh: masks with a stability score below this value are dropped; 0 keeps all. The score is the
            IoU of the mask at two thresholds, `stability_score_offset` above and below `mask_threshold`.
        stability_score_offset: in logits.
        mask_threshold: logit above which a pixel belongs to the mask.
        box_nms_thresh: of two masks whose boxes have a larger IoU than this, the one with the lower predicted IoU is
            dropped.
        crop_n_layers: layers of crops that are segmented in addition to the whole image: layer i has (2 ** i) ** 2.
        crop_nms_thresh: as `box_nms_thresh`, between masks of different crops; those of small crops are preferred.
        crop_overlap_ratio: overlap of the crops of the first layer, as a share of the image's shorter side.
        crop_n_points_downscale_factor: layer i has `points_per_side` divided by this factor to the power of i.
        point_grids: in place of `points_per_side`: for each layer float (P, 2) as (x, y), shares of the crop's sides.
        min_mask_region_area: holes and separate parts of a mask up to this many pixels of the S/4 x S/4 logits are
            removed. The reference does the same where its CUDA extension was built. Needs OpenCV.
        use_m2m: decode every mask once more, with its own logits as a hint.
        multimask_output: three masks for each point, or one.
        region: where to look, a box (x0, y0, x1, y1) in pixels or a mask, bool (H, W): points outside are not decoded.
            A mask may reach beyond it.
        max_area: largest share of the image that a mask may cover, above 0 and up to 1.
        top_k: keep only this many proposals, the ones with the highest predicted IoU; None for all.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[np.ndarray] | None = None
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True
    region: Sequence[float] | np.ndarray | None = None
    max_area: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: an option is out of range.
        """
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError("give either `points_per_side` or `point_grids`; the other one is None")
        for name, least, most in (
            ("points_per_side", 1, 1024),
            ("points_per_batch", 1, 4096),
            ("crop_n_layers", 0, 4),
            ("crop_n_points_downscale_factor", 1, 1024),
            ("min_mask_region_area", 0, 1 << 30),
            ("top_k", 1, 1 << 30),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (whole and least <= value <= most):
                raise InputError(f"`{name}={value}` is not a whole number from {least} to {most}")
            if value is None and name not in ("points_per_side", "top_k"):
                raise InputError(f"`{name}=None` is not a whole number from {least} to {most}")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            self._check_number(name, 0, 1)
        self._check_number("crop_overlap_ratio", 0, 0.999)
        self._check_number("stability_score_offset", 0, 1e4)
        self._check_number("mask_threshold", -1e4, 1e4)
        self._check_number("max_area", 0, 1)
        if self.max_area == 0:
            raise InputError("`max_area=0` leaves no mask; give a share of the image above 0")
        if self.point_grids is not None:
            self._check_grids(self.point_grids)

    def replace(self, **changes: Any) -> EverythingOptions:
        """The options with others in the place of some.

        Raises:
            InputError: an option is not known or out of range.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise InputError(f"everything has no option '{unknown[0]}'; it has {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and least <= value <= most):
            raise InputError(f"`{name}={value}` is not a number from {least:g} to {most:g}")

    def _check_grids(self, grids: Sequence[np.ndarray]) -> None:
        if len(grids) != self.crop_n_layers + 1:
            raise InputError(
                f"`point_grids` has {len(grids)} grids for {self.crop_n_layers} layers of crops; give one for the "
                "image and one for each layer"
            )
        for grid in grids:
            points = np.asarray(grid)
            fits = points.ndim == 2 and points.shape[1] == 2 and len(points) > 0
            if not fits or not ((points >= 0) & (points < 1)).all():
                raise InputError("a grid of `point_grids` is not (P, 2) with shares from 0 to below 1")
