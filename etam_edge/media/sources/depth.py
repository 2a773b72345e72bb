"""Grey images of more than 8 bits (depth, thermal), scaled to 8 bits by one range of counts for the whole clip.

The range is `SourceOptions.depth_range`, where it is given. Of a folder of images it is otherwise found in the images:
the 1st to the 99th percentile of the counts in up to 32 images, evenly spaced, without zeros, which mean "no
measurement" in depth images. A video or a stream cannot be looked at beforehand, and needs a given range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from etam_edge.errors import InputError

SAMPLED_IMAGES = 32
PERCENTILES = (1, 99)


@dataclass(frozen=True)
class DepthRange:
    """Counts that become black and white.

    Attributes:
        low: count of black.
        high: count of white, above `low`.
    """

    low: float
    high: float

    def scaled(self, counts: np.ndarray) -> np.ndarray:
        """Counts (H, W) as a grey picture, uint8 (H, W, 3). Values that are not finite become black."""
        share = (np.nan_to_num(counts.astype(np.float32), nan=self.low, posinf=self.low) - self.low) / (
            self.high - self.low
        )
        grey = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)


def found_range(images: Iterable[np.ndarray]) -> DepthRange:
    """The range of some images (H, W) of counts."""
    counts = np.concatenate([image[np.isfinite(image) & (image != 0)].astype(np.float64) for image in images])
    if not counts.size:
        return DepthRange(0.0, 1.0)
    low, high = np.percentile(counts, PERCENTILES)
    return DepthRange(float(low), float(high) if high > low else float(low) + 1)


def given_range(depth_range: tuple[float, float] | None, where: str) -> DepthRange:
    """The range that was given for frames that cannot be looked at beforehand.

    Raises:
        InputError: none was given.
    """
    if depth_range is None:
        raise InputError(
            f"{where} has grey frames of more than 8 bits, whose range of counts cannot be known beforehand; "
            "give it with `depth_range=LOW,HIGH`"
        )
    return DepthRange(*depth_range)
