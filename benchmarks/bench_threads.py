"""What waiting threads should do, and how many there should be: the same bundle at several background loads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.candidates import (
    FP32_ONE_THREAD,
    FP32_SPINNING,
    FP32_WHILE_RUNNING,
    OPENVINO_FP32,
    WORDS,
    candidates,
)
from benchmarks.interleave import Entry, interleave
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import table
from etam_edge.benchmark.background import DESCRIPTION, BackgroundLoad
from etam_edge.recipe import FP32

LOADS = (0, 1, 2, 4)
"""Busy processes."""
CHOICES = (FP32, FP32_WHILE_RUNNING, FP32_SPINNING, FP32_ONE_THREAD, OPENVINO_FP32)
"""The default first: ratios are its time over the others'."""


def run(settings: Settings) -> Part:
    """Whole frames, one object, memory full.

    Raises:
        EtamError: a bundle cannot be made or used.
    """
    results: dict[str, Any] = {}
    tables = []
    for name in settings.models:
        found = measure(name, settings)
        results[name] = {str(load): [asdict(entry) for entry in entries] for load, entries in found.items()}
        rows = []
        for number, word in enumerate(entry.name for entry in found[LOADS[0]]):
            row = [WORDS.get(word, word)]
            for entries in found.values():
                entry = entries[number]
                times = "" if entry.ratio is None else f" ({entry.ratio.of_medians:.2f})"
                row.append(f"{entry.whole.p50:.0f}{times}")
            rows.append(row)
        header = ["", *(f"{load} busy" for load in LOADS)]
        title = (
            f"{name}, whole frame, medians in ms, n = {settings.frames}; in brackets, time of {WORDS[FP32]} over the "
            f"row's; busy: {DESCRIPTION}"
        )
        tables.append(table(title, header, rows))
    return Part("Threads on a busy machine", results, tables)


def measure(name: str, settings: Settings) -> dict[int, list[Entry]]:
    """By number of busy processes; streams go on from one to the next.

    Raises:
        EtamError: a bundle cannot be made or used.
    """
    runners = {word: make() for word, make in candidates(name, settings, CHOICES).items()}
    found: dict[int, list[Entry]] = {}
    total = settings.warm_up + len(LOADS) * settings.frames
    with counted(f"{name}, threads", len(runners) * total) as advance:
        for number, load in enumerate(LOADS):
            warm_up = settings.warm_up if number == 0 else 0
            first = settings.warm_up + number * settings.frames if number else 0
            with BackgroundLoad(load):
                found[load] = interleave(runners, warm_up, settings.frames, step=advance, first=first)
    return found
