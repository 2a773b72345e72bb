"""Camera frames in the graphs: frames are resized to the model's size, and masks to the frame's size.

`FrameResize` computes exactly Pillow's bicubic filter, which the reference and `runtimes.resample` use: a plain linear
resize costs several hundredths of IoU on some clips (docs/camera_to_mask.md). ONNX's Resize cannot express the filter
without `antialias`, which opset 17 does not have, so it is a matrix product along each axis.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.spec import GraphSizes, ModelSpec

GROUP = 16
"""Target pixels that share a band of source pixels. Larger groups multiply more zeros, smaller ones gather more."""
CUBIC = -0.5
"""Coefficient of Pillow's cubic filter."""


class FrameResize(nn.Module):
    """Resizes frames of one size to the model's size, as `PIL.Image.resize(..., BICUBIC)` does.

    As in Pillow, rows are filtered before columns, and both results are rounded to whole numbers from 0 to 255.

    Args:
        frame_size: (H, W) of the frames in pixels.
        side: S, the model's image size.
    """

    def __init__(self, frame_size: tuple[int, int], side: int) -> None:
        super().__init__()
        height, width = frame_size
        # Pillow, too, skips an axis that has the target size.
        self.columns = BandedFilter(height, side) if height != side else None
        self.rows = BandedFilter(width, side) if width != side else None

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 (1, H, W, 3) to float32 (1, S, S, 3), whole numbers from 0 to 255."""
        # The cast comes first: TensorRT reads uint8 in a cast only.
        image = frame.to(torch.float32).squeeze(0)
        if self.rows is not None:
            image = _whole(self.rows(image.permute(1, 0, 2))).permute(1, 0, 2)
        if self.columns is not None:
            image = _whole(self.columns(image))
        return image.unsqueeze(0)


class BandedFilter(nn.Module):
    """Resizes the leading axis of an image by Pillow's bicubic filter.

    A target pixel depends on a few neighbouring source pixels, so the matrix of the filter is zero outside a band along
    its diagonal. It is split into groups of target pixels; each group is multiplied by the source pixels of its band.

    Args:
        source: length of the axis in pixels.
        target: new length, a multiple of GROUP.
    """

    places: Tensor
    weights: Tensor

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        groups = bicubic_weights(source, target).reshape(target // GROUP, GROUP, source)
        read = [np.flatnonzero(group.any(axis=0)) for group in groups]
        length = max(int(places[-1] - places[0]) + 1 for places in read)
        # All bands have the same length; the last ones begin earlier to stay inside the source.
        starts = [min(int(places[0]), source - length) for places in read]
        bands = [group[:, start : start + length] for group, start in zip(groups, starts, strict=True)]
        self.register_buffer("places", torch.from_numpy(np.add.outer(starts, np.arange(length)).reshape(-1)))
        self.register_buffer("weights", torch.from_numpy(np.stack(bands).astype(np.float32)))

    def forward(self, image: Tensor) -> Tensor:
        """float32 (source, N, 3) to (target, N, 3)."""
        groups, size, length = self.weights.shape
        others = int(image.shape[1])
        bands = image.index_select(0, self.places).reshape(groups, length, others * 3)
        return (self.weights @ bands).reshape(groups * size, others, 3)


class MaskEnlarge(nn.Module):
    """Mask logits to masks at the frame's size, as `runtimes.resample.resize_bilinear` computes them.

    Args:
        frame_size: (H, W) of the frames in pixels.
        side: S/4, the side of the logits.
    """

    def __init__(self, frame_size: tuple[int, int], side: int) -> None:
        super().__init__()
        self.scale = tuple(_scale(side, target) for target in frame_size)

    def forward(self, mask_logits: Tensor) -> Tensor:
        """float32 (objects, S/4, S/4) to uint8 (objects, H, W): 1 where the resized logit is above zero, else 0."""
        # Scales instead of sizes: sizes would include the number of objects, which is not constant.
        large = F.interpolate(
            mask_logits[:, None], scale_factor=self.scale, mode="bilinear", align_corners=False
        ).squeeze(1)
        # Through float32: TensorRT casts to uint8 from nothing else.
        return torch.where(large > 0, 1.0, 0.0).to(torch.uint8)


def frame_resize(spec: ModelSpec, sizes: GraphSizes) -> nn.Module:
    """The resize of frames in `encode`, or the identity if the bundle has no frame size."""
    return nn.Identity() if sizes.frame_size is None else FrameResize(sizes.frame_size, spec.image_size)


def mask_enlarge(spec: ModelSpec, sizes: GraphSizes) -> MaskEnlarge | None:
    """The masks at frame size in `track`, or None if the bundle has no frame size."""
    return None if sizes.frame_size is None else MaskEnlarge(sizes.frame_size, spec.mask_size)


def bicubic_weights(source: int, target: int) -> np.ndarray:
    """Weight of every source pixel in every target pixel, float64 (target, source), as in Pillow's resize."""
    step = source / target
    # For shrinking, the filter is widened so that every source pixel counts.
    width = max(step, 1.0)
    centre = (np.arange(target) + 0.5) * step
    x = np.abs(np.arange(source) + 0.5 - centre[:, None]) / width
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def _whole(pixels: Tensor) -> Tensor:
    """Round halves up, as Pillow's fixed-point arithmetic does, and clamp: the filter overshoots at edges."""
    return (pixels + 0.5).floor().clamp(0, 255)


def _scale(source: int, target: int) -> float:
    """A float32 factor with `floor(source * factor) == target`, which is how runtimes compute a resized length."""
    factor = np.float32(target / source)
    while int(np.floor(np.float32(source) * factor)) < target:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)
