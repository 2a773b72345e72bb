"""Whole frames of the reference and of this project, interleaved, with memory full; once more on a busy machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.candidates import (
    OPENVINO_FP32,
    OPENVINO_INT8,
    PLAIN,
    PLAIN_SPINNING,
    REFERENCE,
    REFERENCE_BFLOAT16,
    REFERENCE_COMPILED,
    WORDS,
    candidates,
)
from benchmarks.interleave import Entry, interleave
from benchmarks.plots import ratio_plot
from benchmarks.session_options import load_bundle, load_openvino
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import mask_warnings, table, times_table
from etam_edge.benchmark.background import BackgroundLoad
from etam_edge.benchmark.matrix_speed import SIDE, matrix_speed
from etam_edge.benchmark.noise import SCATTER
from etam_edge.bundle import Bundle
from etam_edge.exporters.arithmetic import frame_operations
from etam_edge.recipe import FP32, INT8

CONTENDERS = (
    REFERENCE,
    REFERENCE_COMPILED,
    REFERENCE_BFLOAT16,
    PLAIN_SPINNING,
    PLAIN,
    FP32,
    INT8,
    OPENVINO_FP32,
    OPENVINO_INT8,
)


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: the reference or a bundle cannot be used.
    """
    results: dict[str, Any] = {}
    found: dict[str, list[Entry]] = {}
    tables, warnings = [], []
    for name in settings.models:
        quiet, busy = measured(name, settings, CONTENDERS)
        found[name] = quiet
        results[name] = [asdict(entry) for entry in quiet]
        tables.append(times_table(f"{name}, whole frame, n = {settings.frames}", quiet, WORDS))
        share = _share(name, settings, quiet)
        if share is not None:
            results[f"{name}, share of matrix speed"] = share
            tables.append(share_table(name, share))
        if busy:
            results[f"{name}, busy"] = [asdict(entry) for entry in busy]
            title = f"{name}, whole frame, *busy*: {settings.busy} processes beside, n = {settings.frames}"
            tables.append(times_table(title, busy, WORDS))
        warnings += [*mask_warnings(name, quiet), *scatter(name, quiet)]
    return Part("Beside the reference", results, tables, warnings, {"ratios.png": ratio_plot(found, WORDS)})


def interleaved(name: str, settings: Settings, wanted: Sequence[str]) -> list[Entry]:
    """One model's candidates, interleaved on a quiet machine.

    Raises:
        EtamError: one of them cannot be made, or fails.
    """
    return measured(name, replace(settings, busy=0), wanted)[0]


def measured(name: str, settings: Settings, wanted: Sequence[str]) -> tuple[list[Entry], list[Entry]]:
    """One model's candidates, interleaved: without the background load, then beside it (empty where there is none).

    Raises:
        EtamError: one of them cannot be made, or fails.
    """
    runners = {word: make() for word, make in candidates(name, settings, wanted).items()}
    with counted(name, len(runners) * settings.all_frames) as advance:
        quiet = interleave(runners, settings.warm_up, settings.frames, step=advance)
        if not settings.busy:
            return quiet, []
        with BackgroundLoad(settings.busy):
            first = settings.warm_up + settings.frames
            return quiet, interleave(runners, 0, settings.frames, step=advance, first=first)


def _share(name: str, settings: Settings, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """GFLOP of a frame, the CPU's matrix speed in each backend, and the speed of each bundle's frames."""
    backends = {FP32: load_bundle, INT8: load_bundle, OPENVINO_FP32: load_openvino, OPENVINO_INT8: load_openvino}
    medians = {entry.name: entry.whole.p50 for entry in entries if entry.name in backends}
    if not medians:
        return None
    path = settings.bundles.get(name, FP32)
    whole = sum(frame_operations(Bundle.load(path)).values()) / 1e9
    speeds = {load: matrix_speed(load(path, settings.threads).backend) for load in {backends[one] for one in medians}}
    return {
        "gflop": whole,
        "candidates": {
            word: {"gflops": whole / median * 1e3, "matrix_gflops": speeds[backends[word]]}
            for word, median in medians.items()
        },
    }


def share_table(name: str, share: Mapping[str, Any]) -> str:
    """Speed of each candidate's frames, and the share of the CPU's own matrix speed that it is."""
    rows = []
    for word, found in share["candidates"].items():
        part = found["gflops"] / found["matrix_gflops"]
        rows.append([WORDS[word], f"{found['gflops']:.0f}", f"{found['matrix_gflops']:.0f}", f"{part:.0%}"])
    title = f"{name}: a frame multiplies {share['gflop']:.1f} GFLOP"
    return table(title, ["", "a frame, GFLOPS", f"{SIDE} x {SIDE} product in fp32, GFLOPS", "share"], rows)


def scatter(where: str, entries: Sequence[Entry]) -> list[str]:
    """A sentence for each candidate whose times scatter."""
    return [
        f"{where}: times of {entry.name} scatter (p95 is {entry.whole.p95 / entry.whole.p50:.1f} times p50): "
        "the machine did other things; measure again"
        for entry in entries
        if entry.whole.p95 > SCATTER * entry.whole.p50
    ]
