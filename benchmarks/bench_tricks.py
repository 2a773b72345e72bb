"""What each trick gains: the same bundle with and without it, interleaved in one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.bench_reference import interleaved, scatter
from benchmarks.bundles import PADDED
from benchmarks.candidates import (
    FP32_BARE,
    FP32_SPINNING,
    FP32_UNFUSED,
    FP32_UNSPLIT,
    INT8_UNFUSED,
    MODEL,
    PLAIN,
    PLAIN_SPINNING,
    WORDS,
)
from benchmarks.interleave import Entry
from benchmarks.settings import Part, Settings
from benchmarks.tables import mask_warnings, ratio_cells, table, times_table
from etam_edge.benchmark.result import Ratio, ratio
from etam_edge.recipe import FP32, INT8


@dataclass(frozen=True)
class Trick:
    """Two candidates that differ in one thing.

    Attributes:
        what: the thing.
        off, on: names of candidates without it and with it.
    """

    what: str
    off: str
    on: str


TRICKS = (
    Trick("keys once, values last (alone, over the peer-style export)", PLAIN, FP32_BARE),
    Trick("windows without padding", PADDED, FP32),
    Trick("self-attention fused when loaded", FP32_UNFUSED, FP32),
    Trick("memory attention a few queries at a time", FP32_UNSPLIT, FP32),
    Trick("waiting threads sleep, peer-style export", PLAIN_SPINNING, PLAIN),
    Trick("waiting threads sleep, bundle", FP32_SPINNING, FP32),
    Trick("all of these, in fp32", PLAIN_SPINNING, FP32),
    Trick("int8 products fused when loaded", INT8_UNFUSED, INT8),
    Trick("int8 in place of fp32", FP32, INT8),
)
"""A new trick is a line here, and its candidate one in `candidates.VARIANTS`."""
BASE = MODEL
"""Candidate whose masks the others are compared with."""


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: a bundle cannot be made or used.
    """
    wanted = list(dict.fromkeys([BASE, *(name for trick in TRICKS for name in (trick.off, trick.on))]))
    results: dict[str, Any] = {}
    tables, warnings = [], []
    for name in settings.models:
        entries = interleaved(name, settings, wanted)
        gained = gains(entries, settings.warm_up)
        results[name] = {
            "candidates": [asdict(entry) for entry in entries],
            "tricks": [{**asdict(trick), **asdict(found)} for trick, found in gained.items()],
        }
        rows = [
            [trick.what, f"{_median(entries, trick.off):.1f}", f"{_median(entries, trick.on):.1f}", *ratio_cells(found)]
            for trick, found in gained.items()
        ]
        title = f"{name}, whole frame, n = {settings.frames}"
        if rows:
            tables.append(table(title, ["trick", "without, ms", "with, ms", "ratio (95 %)", "of minima"], rows))
        tables.append(times_table(title, entries, WORDS))
        warnings += [*mask_warnings(name, entries), *scatter(name, entries)]
    return Part("What each trick gave", results, tables, warnings)


def gains(entries: list[Entry], warm_up: int) -> dict[Trick, Ratio]:
    """Time without a trick over time with it, for tricks whose two candidates took part.

    Args:
        entries: of one run.
        warm_up: frames that do not count.
    """
    times = {entry.name: entry.milliseconds[warm_up:] for entry in entries}
    return {
        trick: ratio(times[trick.on], times[trick.off]) for trick in TRICKS if trick.on in times and trick.off in times
    }


def _median(entries: list[Entry], name: str) -> float:
    return next(entry.whole.p50 for entry in entries if entry.name == name)
