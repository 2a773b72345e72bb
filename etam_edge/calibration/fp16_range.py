"""The fp16 range check: how close the activations of each region come to the largest float16 number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etam_edge.calibration.ranges import Ranges
from etam_edge.errors import InputError
from etam_edge.recipe import FP16, FP32, MAX_FLOAT16, REGIONS, Recipe


@dataclass(frozen=True)
class ActivationRange:
    """The largest activation of a region over a recording.

    Attributes:
        region: name of the region.
        largest: absolute value of the activation.
        where: graph and tensor.
        half: whether the recipe computes the region in fp16.
    """

    region: str
    largest: float
    where: str
    half: bool

    @property
    def overflows(self) -> bool:
        """Whether the region is fp16 and the activation is beyond float16 (or NaN)."""
        return self.half and not self.largest <= MAX_FLOAT16


def check_fp16_range(ranges: Ranges, regions: Mapping[str, Mapping[str, str]], recipe: Recipe) -> list[ActivationRange]:
    """The activation range of every region, in the order of `REGIONS`. Regions without a measured tensor are left out.

    Args:
        ranges: of an fp32 bundle.
        regions: region by graph and tensor (`exporters.regions.tensor_regions`).
        recipe: of the bundle to be made.
    """
    largest: dict[str, tuple[float, str]] = {}
    for graph, tensors in ranges.items():
        for name, (low, high) in tensors.items():
            region = regions[graph].get(name)
            if region is not None:
                largest[region] = max(largest.get(region, (0.0, "")), (max(abs(low), abs(high)), f"{graph}: {name}"))
    return [
        ActivationRange(name, *largest[name], half=recipe.float_type(name) == FP16)
        for name in REGIONS
        if name in largest
    ]


def check_overflow(activation_ranges: Sequence[ActivationRange]) -> None:
    """Refuse a recipe that computes a region in fp16 whose activations do not fit.

    Raises:
        InputError: names the regions, and the regions to keep in fp32.
    """
    beyond = [one for one in activation_ranges if one.overflows]
    if beyond:
        text = ", ".join(f"{one.region} reaches {one.largest:.3g} ({one.where})" for one in beyond)
        keep = {one.region: FP32 for one in beyond}
        raise InputError(f"fp16 holds at most {MAX_FLOAT16:g}, and {text}; nothing was written; add `regions={keep}`")
