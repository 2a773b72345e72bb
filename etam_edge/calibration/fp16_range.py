"""The overflow audit: how close each region comes to the largest number that float16 holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from etam_edge.calibration.ranges import Ranges
from etam_edge.errors import InputError
from etam_edge.recipe import FP16, LARGEST_HALF, REGIONS, Recipe


@dataclass(frozen=True)
class ActivationRange:
    """The largest activation of a region over a recording.

    Attributes:
        region: its name.
        largest: absolute value.
        where: graph and tensor.
        half: whether the recipe computes the region in fp16.
    """

    region: str
    largest: float
    where: str
    half: bool

    @property
    def overflows(self) -> bool:
        return self.half and not self.largest <= LARGEST_HALF


def check_fp16_range(ranges: Ranges, regions: Mapping[str, Mapping[str, str]], recipe: Recipe) -> list[ActivationRange]:
    """The reach of every region, in the order of `REGIONS`.

    Args:
        ranges: of an fp32 bundle.
        regions: region by graph and tensor.
        recipe: that the bundle shall have.
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


def check_overflow(reaches: list[ActivationRange]) -> None:
    """
    Raises:
        InputError: an fp16 region reaches beyond float16.
    """
    beyond = [reach for reach in reaches if reach.overflows]
    if beyond:
        text = ", ".join(f"{reach.region} reaches {reach.largest:.3g} ({reach.where})" for reach in beyond)
        keep = " ".join(f"--region {reach.region}=fp32" for reach in beyond)
        raise InputError(f"fp16 holds at most {LARGEST_HALF:g}, and {text}; nothing was written; add {keep}")
