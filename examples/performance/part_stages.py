"""Where a frame's time goes: the stages of every bundle, all bundles in turn."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from etam_edge.benchmark.clip import drawn_clip
from etam_edge.benchmark.measure import measure_stages
from etam_edge.benchmark.stages import OTHER, STAGES
from etam_edge.recipe import FP32, INT8
from performance.contenders import WORDS, bundle_of
from performance.plots import stage_plot
from performance.session_options import load_bundle
from performance.settings import Part, Settings, counted
from performance.tables import table


def run(settings: Settings) -> Part:
    """One object, memory full, frames at the model's size.

    Raises:
        EtamError: a bundle cannot be made or used.
    """
    results: dict[str, Any] = {}
    tables = []
    bars: dict[str, dict[str, float]] = {}
    for name in settings.models:
        chosen = [word for word in (FP32, INT8) if not settings.contenders or word in settings.contenders]
        paths = {word: settings.bundles.get(name, word) for word in chosen}
        paths |= {word: bundle_of(folder, name) for word, folder in settings.also.items()}
        trackers = {word: load_bundle(path, settings.threads) for word, path in paths.items()}
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
    return Part("Stages of a frame", results, tables, plots={"stages.png": stage_plot(bars)})
