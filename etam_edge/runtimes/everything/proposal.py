"""A mask that everything mode found. It is kept as runs: a thousand masks of a large image would fill memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from etam_edge.runtimes.rle import encode_runs, mask_of_runs


@dataclass(frozen=True, eq=False, repr=False)
class Proposal:
    """One mask of `Segmenter.everything`.

    Attributes:
        shape: (H, W) of the image.
        runs: int64, lengths of the mask's runs of 0, 1, 0, ... in column-major order, as COCO's uncompressed RLE.
        box: (x0, y0, x1, y1) around the mask, in pixels, (x1, y1) beyond its last pixel.
        area: pixels of the mask.
        predicted_iou: by the model.
        stability_score: IoU of the mask at two thresholds.
        point: (x, y), the grid point that was decoded.
        crop_box: (x0, y0, x1, y1), the crop that was decoded.
    """

    shape: tuple[int, int]
    runs: np.ndarray
    box: tuple[int, int, int, int]
    area: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: tuple[int, int, int, int]

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W), a new array each time."""
        return mask_of_runs(self.runs, self.shape)

    @property
    def segmentation(self) -> dict[str, Any]:
        """COCO's compressed RLE, ready for `json.dumps` and pycocotools: `size` [H, W] and `counts`."""
        return {"size": list(self.shape), "counts": encode_runs(self.runs.tolist())}

    def to_record(self) -> dict[str, Any]:
        """The record of the reference's generator: its keys, with boxes as [x, y, width, height]."""
        return {
            "segmentation": self.segmentation,
            "area": self.area,
            "bbox": _width_and_height(self.box),
            "predicted_iou": self.predicted_iou,
            "point_coords": [list(self.point)],
            "stability_score": self.stability_score,
            "crop_box": _width_and_height(self.crop_box),
        }

    def __repr__(self) -> str:
        return (
            f"Proposal(box={self.box}, area={self.area}, predicted_iou={self.predicted_iou:.2f}, "
            f"stability_score={self.stability_score:.2f})"
        )


def _width_and_height(box: tuple[int, int, int, int]) -> list[float]:
    x0, y0, x1, y1 = box
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
