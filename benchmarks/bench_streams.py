"""A long stream: whether frame 5,000 takes as long as frame 50, and whether memory stays flat.

Minutes lie between the two, and machines change in minutes. So the verdict rests on a second session: it is brought to
frame 50 when the first one has reached its end, and from then on the two are interleaved frame by frame.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.interleave import order
from benchmarks.session_options import load_bundle
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import table
from etam_edge.benchmark import machine
from etam_edge.benchmark.clip import drawn_clip
from etam_edge.benchmark.measure import Candidate
from etam_edge.benchmark.result import EARLY, ratio

MODEL = "etam_nano"
HALF = 20
"""Frames before and after frame 50 whose median is given for it."""
PAIRS = 100
"""Frames of each session that are interleaved."""
MOST = 0.03
"""That the late session may be slower, or faster, than the fresh one."""
OLD, FRESH = "long stream", "fresh session"
ROOT = Path("/")


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: the bundle cannot be made or used.
    """
    candidate = Candidate.of(MODEL, load_bundle(settings.bundles.get(MODEL), settings.threads))
    clip = drawn_clip()
    prompts = clip.prompts(1)
    # Read once: drawing them again would change the process's memory.
    images = list(clip.round())
    times: list[float] = []
    early = min(EARLY, settings.stream // 2)
    with counted(f"{MODEL}, long stream", settings.stream + early + 2 * PAIRS) as advance:
        streams = {OLD: candidate.start(1)}
        resident = None
        for index in range(settings.stream):
            begin = time.perf_counter()
            streams[OLD](images[index % len(images)], prompts if index == 0 else None)
            times.append(1e3 * (time.perf_counter() - begin))
            if index == early:
                resident = machine.resident_memory(ROOT)
            advance("alone")
        at_end = machine.resident_memory(ROOT)
        streams[FRESH] = candidate.start(1)
        for index in range(early):
            streams[FRESH](images[index % len(images)], prompts if index == 0 else None)
            advance("fresh session")
        pairs: dict[str, list[float]] = {OLD: [], FRESH: []}
        for index in range(PAIRS):
            for name in order(list(streams), index):
                begin = time.perf_counter()
                streams[name](images[index % len(images)], None)
                pairs[name].append(1e3 * (time.perf_counter() - begin))
                advance("interleaved")
    # The fresh session's time is the one below.
    found = ratio(pairs[FRESH], pairs[OLD])
    half = min(HALF, early)
    windows = {early: times[early - half : early + half], settings.stream - half: times[-2 * half :]}
    within = abs(found.of_medians - 1) <= MOST
    grown = None if resident is None or at_end is None else at_end - resident
    rows = [[f"median around frame {middle:,}", f"{np.median(taken):.2f} ms"] for middle, taken in windows.items()]
    rows += [
        [f"frame {settings.stream:,} over frame {early}, interleaved, n = {PAIRS}", f"{found.of_medians:.3f}"],
        ["95 % interval", f"{found.low:.3f} to {found.high:.3f}"],
        [f"process memory at frame {early}", _megabytes(resident)],
        [f"process memory at frame {settings.stream:,}", f"{_megabytes(at_end)} ({_megabytes(grown)} more)"],
    ]
    warnings = []
    if not within:
        warnings.append(f"{MODEL}: a late frame takes {found.of_medians:.3f} times an early one, beyond {MOST:.0%}")
    results = {
        "milliseconds": times,
        "in_turn": pairs,
        "late_over_early": asdict(found),
        "within": within,
        "resident_early": resident,
        "resident_late": at_end,
        "growth": grown,
    }
    title = f"{MODEL} in fp32, one object, {settings.stream:,} frames of 320 x 240 pixels"
    return Part("Long streams", results, [table(title, ["", ""], rows)], warnings)


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.1f} MB"
