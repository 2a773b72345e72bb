"""Plots of a benchmark, as PNG files. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from etam_edge.benchmark.result import Benchmark
from etam_edge.benchmark.stages import OTHER, STAGES
from etam_edge.plotting import add_legend, make_figure, plain, to_png

MAX_MILLISECONDS = 99.5
"""Percentile at which the axis of times ends: one slow frame would flatten all others."""
DECODE = "decode"
STAGE_COLOURS = dict(
    zip(
        (DECODE, *STAGES, OTHER),
        ("#d9d2b0", "#8fb8de", "#5a8fc3", "#2f5f94", "#e0802b", "#f2b27a", "#8a6bb1", "#6aa56e", "#bbbbbb"),
        strict=True,
    )
)
LONGEST_NAME = 28


def latency_plot(benchmark: Benchmark) -> bytes:
    """Milliseconds of every frame of every stream, by its index."""
    figure, [axes] = make_figure(3.6)
    tallest = 0.0
    for run in benchmark.runs:
        for number, side in enumerate(run.sides):
            label = f"{_label(side.side, run.objects)}, median {side.whole.p50:.1f}"
            style = "-" if number == 0 else "--"
            axes.plot(side.milliseconds, style, linewidth=1.0, alpha=0.85, label=label)
            tallest = max(tallest, float(np.percentile(side.milliseconds, MAX_MILLISECONDS)))
    axes.axvspan(-0.5, benchmark.warm_up - 0.5, color="#eeeeee", zorder=0)
    axes.set(
        xlabel="frame (grey: warm-up)",
        ylabel="milliseconds",
        ylim=(0, 1.1 * max(tallest, 1e-3)),
        xlim=(-0.5, benchmark.frames - 0.5),
    )
    add_legend(figure, axes)
    return to_png(figure)


def stage_plot(benchmark: Benchmark) -> bytes:
    """Medians of the stages, a bar for each side and number of objects; decoding comes before the frame begins."""
    bars = [
        (
            _label(side.side, run.objects),
            {DECODE: run.decode.p50 if run.decode else 0.0}
            | {name: timing.p50 for name, timing in side.stages.stages.items()},
        )
        for run in benchmark.runs
        for side in run.sides
        if side.stages is not None
    ]
    return stage_bars(bars)


def stage_bars(bars: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """A bar for each name: milliseconds of its stages, laid end to end. Decoding is left out where there is none."""
    figure, [axes] = make_figure(1.3 + 0.45 * len(bars))
    places = np.arange(len(bars))
    begin = np.zeros(len(bars))
    for stage, colour in STAGE_COLOURS.items():
        widths = np.array([medians.get(stage, 0.0) for _, medians in bars])
        if stage == DECODE and not widths.any():
            continue
        axes.barh(places, widths, left=begin, height=0.6, color=colour, label=stage)
        begin += widths
    for place, total in zip(places, begin, strict=True):
        axes.text(total, place, f" {total:.1f}", va="center", fontsize=8)
    axes.set_yticks(places, [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds (medians of the stages, laid end to end)", xlim=(0, 1.12 * max(begin.max(), 1e-3)))
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=9, fontsize=8, frameon=False)
    return to_png(figure)


def _label(side: str, objects: int) -> str:
    name = side if len(side) <= LONGEST_NAME else f"{side[: LONGEST_NAME - 1]}\u2026"
    return plain(f"{name}, {objects} object{'s' if objects > 1 else ''}")
