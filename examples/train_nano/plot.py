"""The curves of a training, from its log.csv.

python examples/train_nano/plot.py out/nano docs/images/etam_nano_training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

CURVES = {
    "mask": "mask loss (cross entropy and dice)",
    "tracked_iou": "IoU of tracked frames",
    "score": "occlusion loss",
    "in_sight_right": "in sight or not, share right",
}
SMOOTHED_OVER = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="the --output of train.py")
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    rows = np.genfromtxt(options.training / "log.csv", delimiter=",", names=True)
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharex=True, layout="constrained")
    changes = rows["minutes"][1:][np.diff(rows["side"]) != 0]
    for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
        values = rows[name]
        kernel = np.ones(min(SMOOTHED_OVER, len(values)))
        weights = np.convolve(np.ones_like(values), kernel, "same")
        axis.plot(rows["minutes"], values, color="0.8", linewidth=0.8)
        axis.plot(rows["minutes"], np.convolve(values, kernel, "same") / weights, color="C0")
        for change in changes:
            axis.axvline(change, color="0.5", linestyle=":", linewidth=0.8)
        axis.set_title(title)
    for axis in axes[1]:
        axis.set_xlabel("minutes")
    sides = " to ".join(f"{side:.0f}" for side in dict.fromkeys(rows["side"]))
    figure.suptitle(
        f"Training of etam_nano: {rows['step'][-1]:.0f} steps, frames of {sides} px (dotted: the next size)"
    )
    options.image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.image, dpi=110)


if __name__ == "__main__":
    main()
