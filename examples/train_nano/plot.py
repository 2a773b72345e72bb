"""Curves of a training: its own measures beside those of the averaged weights on held-out material.

python examples/train_nano/plot.py out/nano docs/images/etam_nano_training.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

CURVES = {
    "click": "photographs, one click: mean IoU",
    "best": "photographs, best of three masks: mean IoU",
    "box": "photographs, box: mean IoU",
    "tracked": "clips: mean IoU of tracked frames",
}
HELD_OUT = {
    "click": {"click": "held-out photographs"},
    "best": {"best": "held-out photographs"},
    "box": {"box": "held-out photographs"},
    "tracked": {
        "drawn_mask_tracked": "held-out drawn, mask",
        "drawn_point_tracked": "held-out drawn, click",
        "scene_mask_tracked": "held-out scenes, mask",
        "scene_point_tracked": "held-out scenes, click",
    },
}
SMOOTHED_OVER = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="the --output of train.py")
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    plot(options.training, options.image)


def plot(training: Path, image: Path) -> None:
    rows = np.atleast_1d(np.genfromtxt(training / "log.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"))
    held_out = training / "held_out.jsonl"
    lines = [json.loads(line) for line in held_out.read_text().splitlines()] if held_out.exists() else []
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharex=True, layout="constrained")
    changes = rows["core_hours"][1:][rows["stage"][1:] != rows["stage"][:-1]]
    for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
        values, hours = rows[name], rows["core_hours"]
        hours, values = hours[np.isfinite(values)], values[np.isfinite(values)]
        kernel = np.ones(min(SMOOTHED_OVER, len(values)))
        weights = np.convolve(np.ones_like(values), kernel, "same")
        axis.plot(hours, values, color="0.85", linewidth=0.8)
        axis.plot(hours, np.convolve(values, kernel, "same") / weights, color="0.5", label="while training")
        for key, label in HELD_OUT[name].items():
            marks = [(line["core_hours"], line[key]) for line in lines if key in line]
            if marks:
                axis.plot(*zip(*marks, strict=True), marker="o", markersize=3, label=label)
        for change in changes:
            axis.axvline(change, color="0.5", linestyle=":", linewidth=0.8)
        axis.set_title(title)
        axis.legend(fontsize=7)
    for axis in axes[1]:
        axis.set_xlabel("core-hours")
    figure.suptitle(f"Training of etam_nano: {rows['step'][-1]} steps (dotted: the next stage)")
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
