"""Where a frame's time goes: the stages of every bundle, bundles interleaved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.bundles import PADDED
from benchmarks.candidates import ATTENTION, FP32_BARE, QUERIES, WORDS, bundle_of
from benchmarks.session_options import load_bundle, load_with
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import table
from etam_edge.benchmark.clip import drawn_clip
from etam_edge.benchmark.measure import measure_stages
from etam_edge.benchmark.plots import stage_bars
from etam_edge.benchmark.stages import OTHER, STAGES
from etam_edge.recipe import FP32, INT8

LOADS = {
    FP32_BARE: (PADDED, load_with(skip_rewrites=(ATTENTION, QUERIES))),
    FP32: (FP32, load_bundle),
    INT8: (INT8, load_bundle),
}
"""Kind of the bundle and how it is loaded: without the tricks, and as it is used."""


def run(settings: Settings) -> Part:
    """One object, memory full, frames at the model's size.

    Raises:
        EtamError: a bundle cannot be made or used.
    """
    results: dict[str, Any] = {}
    tables = []
    bars: dict[str, dict[str, float]] = {}
    for name in settings.models:
        chosen = [word for word in LOADS if not settings.candidates or word in settings.candidates]
        trackers = {}
        for word in chosen:
            kind, load = LOADS[word]
            trackers[word] = load(settings.bundles.get(name, kind), settings.threads)
        for word, folder in settings.also.items():
            trackers[word] = load_bundle(bundle_of(folder, name), settings.threads)
        size = next(iter(trackers.values())).spec.image_size
        frames = settings.warm_up + settings.frames
        with counted(f"{name}, stages", len(trackers) * frames) as advance:
            staged = measure_stages(
                trackers, drawn_clip((size, size)), 1, frames, settings.warm_up, step=lambda: advance("frames")
            )
        results[name] = {
            word: {**asdict(stages), "session_memory": nbytes} for word, (stages, nbytes) in staged.items()
        }
        rows = []
        for word, (stages, _) in staged.items():
            medians = {stage: timing.p50 for stage, timing in stages.stages.items()}
            bars[f"{name}\n{WORDS.get(word, word)}"] = medians
            cells = [f"{medians[stage]:.1f}" for stage in (*STAGES, OTHER)]
            rows.append([WORDS.get(word, word), f"{stages.whole.p50:.1f}", *cells])
        tables.append(table(f"{name}, medians in ms, n = {settings.frames}", ["", "whole frame", *STAGES, OTHER], rows))
    return Part("Stages of a frame", results, tables, plots={"stages.png": stage_bars(list(bars.items()))})
