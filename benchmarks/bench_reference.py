"""Whole frames beside the reference, all candidates in turn with their memory full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.candidates import PLAIN, PLAIN_SPINNING, REFERENCE, WORDS, candidates
from benchmarks.interleave import Entry, interleave
from benchmarks.plots import ratio_plot
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import mask_warnings, times_table
from etam_edge.benchmark.noise import SCATTER
from etam_edge.recipe import FP32, INT8

CONTENDERS = (REFERENCE, PLAIN_SPINNING, PLAIN, FP32, INT8)


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: the reference or a bundle cannot be used.
    """
    results: dict[str, Any] = {}
    found: dict[str, list[Entry]] = {}
    tables, warnings = [], []
    for name in settings.models:
        entries = found[name] = turns(name, settings, CONTENDERS)
        results[name] = [asdict(entry) for entry in entries]
        tables.append(times_table(f"{name}, whole frame, n = {settings.frames}", entries, WORDS))
        warnings += [*mask_warnings(name, entries), *scatter(name, entries)]
    return Part("Beside the reference", results, tables, warnings, {"ratios.png": ratio_plot(found, WORDS)})


def turns(name: str, settings: Settings, wanted: Sequence[str]) -> list[Entry]:
    """One model's candidates, in turn.

    Raises:
        EtamError: one of them cannot be made, or fails.
    """
    runners = {word: make() for word, make in candidates(name, settings, wanted).items()}
    with counted(name, len(runners) * (settings.warm_up + settings.frames)) as advance:
        return interleave(runners, settings.warm_up, settings.frames, step=advance)


def scatter(where: str, entries: Sequence[Entry]) -> list[str]:
    """A sentence for each candidate whose times scatter."""
    return [
        f"{where}: times of {entry.name} scatter (p95 is {entry.whole.p95 / entry.whole.p50:.1f} times p50): "
        "the machine did other things; measure again"
        for entry in entries
        if entry.whole.p95 > SCATTER * entry.whole.p50
    ]
