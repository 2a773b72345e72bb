"""Camera frames inside the graphs: a frame to the model's size as it comes, and masks at the frame's size.

`FrameResize` is Pillow's bicubic filter, which the reference and `runtimes.resample` use, and no approximation of it:
masks follow the pixels so closely that a plain linear resize costs several hundredths of IoU on some clips
(docs/camera_to_mask.md). ONNX's Resize cannot say it without `antialias`, which opset 17 does not have; a resize is a
matrix product on either axis, though.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.spec import GraphSizes, ModelSpec

GROUP = 16
"""Target pixels that share a band of source pixels. Larger groups multiply by more zeros, smaller ones gather more."""
CUBIC = -0.5
"""Pillow's coefficient of the cubic filter."""


class FrameResize(nn.Module):
    """Frames of one size to the model's, as `PIL.Image.resize(..., BICUBIC)` does.

    As there, rows are filtered before columns, and what comes out of either is rounded to whole numbers from 0 to 255.

    Args:
        frame_size: (H, W) of the frames in pixels.
        side: S, the model's image size.
    """

    def __init__(self, frame_size: tuple[int, int], side: int) -> None:
        super().__init__()
        height, width = frame_size
        # Pillow, too, leaves out an axis that has the right size already.
        self.columns = BandedFilter(height, side) if height != side else None
        self.rows = BandedFilter(width, side) if width != side else None

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 (1, H, W, 3) to whole numbers from 0 to 255, float32 (1, S, S, 3)."""
        # Cast first: TensorRT reads uint8 in a cast and nowhere else.
        image = frame.to(torch.float32).squeeze(0)
        if self.rows is not None:
            image = _whole(self.rows(image.permute(1, 0, 2))).permute(1, 0, 2)
        if self.columns is not None:
            image = _whole(self.columns(image))
        return image.unsqueeze(0)


class BandedFilter(nn.Module):
    """The leading axis of an image to another length, by Pillow's bicubic filter.

    A target pixel reads a few neighbours and no others. The matrix that says so is zero but for a band along its
    diagonal; it is cut into groups of target pixels, and each is multiplied by the part of the source that it reads.

    Args:
        source: length of the axis in pixels.
        target: length wanted, a multiple of GROUP.
    """

    places: Tensor
    weights: Tensor

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        groups = bicubic_weights(source, target).reshape(target // GROUP, GROUP, source)
        read = [np.flatnonzero(group.any(axis=0)) for group in groups]
        reach = max(int(places[-1] - places[0]) + 1 for places in read)
        # All bands have one length; one at the far end begins earlier for it.
        starts = [min(int(places[0]), source - reach) for places in read]
        bands = [group[:, start : start + reach] for group, start in zip(groups, starts, strict=True)]
        self.register_buffer("places", torch.from_numpy(np.add.outer(starts, np.arange(reach)).reshape(-1)))
        self.register_buffer("weights", torch.from_numpy(np.stack(bands).astype(np.float32)))

    def forward(self, image: Tensor) -> Tensor:
        """float32 (source, N, 3) to (target, N, 3)."""
        groups, size, reach = self.weights.shape
        others = int(image.shape[1])
        bands = image.index_select(0, self.places).reshape(groups, reach, others * 3)
        return (self.weights @ bands).reshape(groups * size, others, 3)


class MaskEnlarge(nn.Module):
    """Mask logits to masks at the size of the frame, as `runtimes.resample.resize_bilinear` makes them.

    Args:
        frame_size: (H, W) of the frames in pixels.
        side: S/4, of the logits.
    """

    def __init__(self, frame_size: tuple[int, int], side: int) -> None:
        super().__init__()
        self.scale = tuple(_scale(side, target) for target in frame_size)

    def forward(self, mask_logits: Tensor) -> Tensor:
        """float32 (objects, S/4, S/4) to uint8 (objects, H, W): 1 where the logit is above zero, else 0."""
        # Scales in place of sizes: a size would have to be put together with the number of objects at run time.
        large = F.interpolate(
            mask_logits[:, None], scale_factor=self.scale, mode="bilinear", align_corners=False
        ).squeeze(1)
        # By way of float32: TensorRT makes uint8 of nothing else.
        return torch.where(large > 0, 1.0, 0.0).to(torch.uint8)


def frame_resize(spec: ModelSpec, sizes: GraphSizes) -> nn.Module:
    """What `encode` does to a frame before its patches; nothing where the bundle takes frames of the model's size."""
    return nn.Identity() if sizes.frame_size is None else FrameResize(sizes.frame_size, spec.image_size)


def mask_enlarge(spec: ModelSpec, sizes: GraphSizes) -> MaskEnlarge | None:
    """What `track` makes of its mask logits beside them, if anything."""
    return None if sizes.frame_size is None else MaskEnlarge(sizes.frame_size, spec.mask_size)


def bicubic_weights(source: int, target: int) -> np.ndarray:
    """Share of every source pixel in every target pixel, float64 (target, source), as Pillow's resize has them."""
    step = source / target
    # Shrinking widens the filter, so that every source pixel counts.
    width = max(step, 1.0)
    centre = (np.arange(target) + 0.5) * step
    x = np.abs(np.arange(source) + 0.5 - centre[:, None]) / width
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _whole(pixels: Tensor) -> Tensor:
    """Halves go up, as Pillow's fixed-point numbers have it; the filter overshoots at edges and is cut off."""
    return (pixels + 0.5).floor().clamp(0, 255)


def _scale(source: int, target: int) -> float:
    """A float32 factor that `floor(source * factor)` makes the target of, as runtimes compute a resized length."""
    factor = np.float32(target / source)
    while int(np.floor(np.float32(source) * factor)) < target:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)
