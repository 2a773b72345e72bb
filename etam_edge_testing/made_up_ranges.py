"""Activation ranges for int8 graphs of tests in which the scales do not matter."""

from __future__ import annotations

from collections import defaultdict

from etam_edge.calibration.ranges import Ranges


class _AnyRange(dict[str, tuple[float, float]]):
    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> tuple[float, float]:
        return -4.0, 4.0


def made_up_ranges() -> Ranges:
    """Return the range (-4, 4) for every tensor of every graph."""
    return defaultdict(_AnyRange)
