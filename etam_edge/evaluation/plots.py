"""Plots of a comparison as PNG images. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import numpy as np

from etam_edge.evaluation.check import Check
from etam_edge.evaluation.summary import Comparison, timed
from etam_edge.plotting import add_legend, make_figure, plain, to_png

REFERENCE, CANDIDATE = "#3b77b8", "#e0802b"
MAX_LINES = 10
"""Number of objects that get a colour each. More objects are all drawn in grey."""
MAX_OBJECTS = 12
"""Number of objects whose J is plotted over time."""
BAR_CLIPS = 8
"""Number of clips whose names fit horizontally under their bars."""
LONGEST_NAME = 24
BINS = 40
MAX_MILLISECONDS = 99.0
"""Percentile at which the time axis ends. Otherwise one slow frame would compress all others."""


def drift_plot(comparison: Comparison) -> bytes:
    """Plot the IoU with the reference over the frames since an object's prompt."""
    figure, [axes] = make_figure(3.4)
    lines = [
        (plain(f"{clip.name}, object {one.object_id}"), one.iou) for clip in comparison.clips for one in clip.objects
    ]
    told_apart = len(lines) <= MAX_LINES
    for label, values in lines:
        style = {"label": label, "alpha": 0.85} if told_apart else {"color": "#888888", "alpha": 0.35}
        axes.plot(range(1, len(values) + 1), values, linewidth=1.1, marker="." if len(values) == 1 else "", **style)
    if len(lines) > 1:
        mean = comparison.drift
        axes.plot(range(1, len(mean) + 1), mean, color="black", linewidth=2, label="mean")
    low = min(min(values) for _, values in lines)
    # The axis starts at 0.9 or lower, so that small differences show and large ones fit.
    axes.set(xlabel="frames since the prompt", ylabel="IoU with the reference", ylim=(min(0.9, low - 0.05), 1.01))
    axes.xaxis.get_major_locator().set_params(integer=True)
    if told_apart:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return to_png(figure)


def accuracy_plot(comparison: Comparison) -> bytes:
    """Plot J&F of reference and candidate for each clip with ground-truth masks."""
    clips = [clip for clip in comparison.clips if clip.figures.drop is not None]
    many = len(clips) > BAR_CLIPS
    figure, [axes] = make_figure(4.2 if many else 3.2)
    places = np.arange(len(clips))
    for shift, label, colour in ((-0.19, "reference", REFERENCE), (0.19, "candidate", CANDIDATE)):
        heights = [getattr(clip.figures, label).j_and_f for clip in clips]
        bars = axes.bar(places + shift, heights, width=0.36, color=colour, label=label)
        if not many:
            axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    names = [plain(_short(clip.name)) for clip in clips]
    axes.set_xticks(places, names, rotation=60 if many else 0, ha="right" if many else "center")
    axes.set(ylabel="J&F", ylim=(0, 1.06), xlim=(-0.7, max(len(clips) - 0.3, 3.0)))
    add_legend(figure, axes)
    return to_png(figure)


def region_plot(comparison: Comparison) -> bytes:
    """Plot J of reference and candidate over time, for the MAX_OBJECTS objects with the largest drop of J&F.

    Raises:
        ValueError: no object has ground-truth masks.
    """
    judged = [(clip, one) for clip in comparison.clips for one in clip.objects if one.figures.drop is not None]
    judged.sort(key=lambda pair: -pair[1].figures.drop.j_and_f if pair[1].figures.drop is not None else 0.0)
    shown = judged[:MAX_OBJECTS]
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure, grid = make_figure(0.5 + 1.9 * rows, rows=rows, columns=columns)
    for axes, pair in zip(grid, [*shown, *[None] * (len(grid) - len(shown))], strict=True):
        if pair is None:
            axes.set_axis_off()
            continue
        clip, one = pair
        frames = np.arange(one.prompt_frame + 1, one.prompt_frame + 1 + len(one.iou))
        for label, values, colour in (
            ("reference", one.reference_j, REFERENCE),
            ("candidate", one.candidate_j, CANDIDATE),
        ):
            known = np.array([np.nan if value is None else value for value in values])
            # Sparse annotations are marked as points.
            there = ~np.isnan(known)
            sparse = np.count_nonzero(there) < 0.8 * len(known)
            axes.plot(
                frames[there],
                known[there],
                color=colour,
                linewidth=1.3,
                marker="o" if sparse else "",
                markersize=3,
                label=label,
            )
        axes.set_title(plain(f"{_short(clip.name)}, object {one.object_id}"), fontsize=9, loc="left")
        axes.set(ylim=(-0.03, 1.03), xlabel="frame", ylabel="J")
        axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(figure, grid[0])
    return to_png(figure)


def latency_plot(check: Check) -> bytes:
    """Plot a histogram of the times of a frame.

    Raises:
        ValueError: no frame was timed.
    """
    figure, [axes] = make_figure(2.8)
    sides = [
        (label, timed(runs), colour)
        for label, runs, colour in (
            ("reference", check.reference, REFERENCE),
            ("candidate", check.candidate, CANDIDATE),
        )
    ]
    together = np.concatenate([times for _, times, _ in sides])
    edges = np.linspace(together.min() * 0.98, np.percentile(together, MAX_MILLISECONDS) * 1.02, BINS + 1)
    for label, times, colour in sides:
        if not len(times):
            continue
        axes.hist(times.clip(max=edges[-1]), bins=edges, color=colour, alpha=0.45, histtype="stepfilled")
        axes.axvline(
            float(np.median(times)), color=colour, linewidth=1.8, label=f"{label}, median {np.median(times):.1f}"
        )
    axes.set(xlabel="milliseconds a frame", ylabel="frames")
    add_legend(figure, axes)
    return to_png(figure)


def _short(name: str) -> str:
    """The name, shortened in the middle: names of clips of one recording often differ in the last digits only."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}\u2026{name[1 - half :]}"
