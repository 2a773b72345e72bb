"""The plot of ratios, in the look of the project's other figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.interleave import Entry
from etam_edge.plotting import make_figure, to_png

COLOURS = ("#8fb8de", "#2f5f94", "#e0802b", "#6aa56e", "#8a6bb1", "#bbbbbb")


def ratio_plot(found: Mapping[str, Sequence[Entry]], words: Mapping[str, str]) -> bytes:
    """A group of bars for each model: how many times as fast as the first candidate, with 95 % intervals."""
    names = list(dict.fromkeys(entry.name for entries in found.values() for entry in entries if entry.ratio))
    first = next(iter(found.values()))[0].name
    figure, [axes] = make_figure(3.6)
    width = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        places, ratios = [], []
        for group, entries in enumerate(found.values()):
            for entry in entries:
                if entry.name == name and entry.ratio is not None:
                    places.append(group + (number - (len(names) - 1) / 2) * width)
                    ratios.append(entry.ratio)
        middle = np.array([ratio.of_medians for ratio in ratios])
        # The interval is of the median's resamples: it may lie beside the median itself.
        spread = [
            np.maximum(middle - [ratio.low for ratio in ratios], 0.0),
            np.maximum([ratio.high for ratio in ratios] - middle, 0.0),
        ]
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(places, middle, 0.94 * width, yerr=spread, color=colour, label=words.get(name, name), capsize=2)
        for place, value, above in zip(places, middle, spread[1], strict=True):
            axes.text(place, value + above, f"{value:.2f}", ha="center", va="bottom", fontsize=8)
    axes.axhline(1.0, color="#444444", linewidth=0.8)
    axes.set_xticks(range(len(found)), list(found))
    axes.set(ylabel=f"times as fast as {words.get(first, first)}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return to_png(figure)
