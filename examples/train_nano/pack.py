"""Put a training's averaged weights into the package, and measure every published figure of them again. One command.

    python examples/train_nano/pack.py out/nano --data DATA_FOLDER --davis DAVIS_FOLDER

It writes the weights in half precision, the figures, the model card (from `card.md.in`), the list of training material,
curves and pictures, and the lowest figures that tests/test_nano.py accepts.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import evaluate
import numpy as np
import torch
from held_out import photograph_ious, read, summary, table
from photos import Photos, deepest, load
from plot import plot
from safetensors.torch import save_file

from etam_edge import Prompt, Tracker
from etam_edge.model import EfficientTAM
from etam_edge.spec import find_spec

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("card.md.in")
CARD = ROOT / "etam_edge" / "weights" / "MODEL_CARD.md"
FIGURES = Path(__file__).with_name("figures.json")
FLOORS = ROOT / "tests" / "data" / "nano_floors.json"
CURVES = ROOT / "docs" / "images" / "etam_nano_training.png"
PICTURE = ROOT / "docs" / "images" / "etam_nano_photographs.jpg"
MARGIN = 0.05
"""Between a figure and its floor, for other processors and runtimes."""
SHOWN = (
    "animals_053bcf755ad1e804",
    "animals_9a35ba3a8f0441dc",
    "animals_ef1843c6ca891bb5",
    "kuih_IMG-1415",
    "microctl_IMG-20190104-164157",
    "retail_WIN-20251002-02-39-30-Pro",
)
"""Held-out photographs of the picture: no persons in them."""
SHOWN_HEIGHT = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="the --output of train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/, videos/ and meshes/")
    parser.add_argument("--davis", type=Path, help="folder with JPEGImages/480p and Annotations/480p")
    parser.add_argument(
        "--blend", type=float, default=1.0, help="share of the trained weights; the rest are those it started from"
    )
    parser.add_argument("--clips", type=int, default=evaluate.CLIPS, help="drawn clips that are measured")
    options = parser.parse_args()
    latest = json.loads((options.training / "checkpoint" / "latest.json").read_text())
    weights = CARD.with_name(f"{latest['model']}.safetensors")
    pack(blended(options.training, options.blend), weights)

    bundle = options.training / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    command = [sys.executable, "-m", "etam_edge", "export", "--model", latest["model"], "--output", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    tracker = Tracker.load(bundle)
    model = EfficientTAM(find_spec(latest["model"]))
    model.load_state_dict(read(weights))
    photos = Photos(options.data / "photos", held_out=True)
    rows = list(photograph_ious(model.eval(), photos.files))

    figures: dict[str, Any] = {"step": latest["step"], "core_hours": round(latest["core_hours"], 2)}
    figures["blend"] = options.blend
    figures["photographs"] = {name: round(value, 4) for name, value in summary(rows).items()}
    figures |= evaluate.measure(tracker, options.training / "cache", options.clips, options.davis)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    floors = {name: math.floor(100 * (value - MARGIN)) / 100 for name, value in figures["packaged"].items()}
    FLOORS.write_text(json.dumps(floors, indent=1) + "\n")

    parts = {"training": trained(options.training, latest, options.blend), "photographs": table(rows)}
    fill({**parts, "clips": evaluate.tables(figures), "bytes": f"{weights.stat().st_size:,}"})
    attribution(options.data)
    plot(options.training, CURVES)
    picture(tracker, options.data / "photos")
    print(table(rows), evaluate.tables(figures), sep="\n\n")
    print("\nnext: python -m pytest tests/test_nano.py tests/test_train_nano.py")


def blended(training: Path, share: float) -> dict[str, torch.Tensor]:
    """Averaged weights of the training, interpolated with those it started from."""
    state = read(training)
    if share == 1:
        return state
    start = read(training / "start.safetensors")
    return {name: (1 - share) * start[name] + share * tensor for name, tensor in state.items()}


def pack(state: dict[str, torch.Tensor], output: Path) -> None:
    largest = max(float(tensor.abs().max()) for tensor in state.values())
    if not largest < torch.finfo(torch.float16).max:
        raise SystemExit(f"the largest weight is {largest}, beyond half precision")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, output)
    output.chmod(0o644)  # the writer makes it its owner's alone


def fill(parts: dict[str, str]) -> None:
    """Write the card: the template with the parts in the places of their names in double braces."""
    card = TEMPLATE.read_text()
    for name, text in parts.items():
        place = f"{{{{ {name} }}}}"
        if place not in card:
            raise SystemExit(f"{TEMPLATE} has no place {place}")
        card = card.replace(place, text)
    CARD.write_text(card)


def trained(training: Path, latest: dict[str, Any], blend: float) -> str:
    """What the training was, from what it noted at each start."""
    runs = [json.loads(line) for line in (training / "runs.jsonl").read_text().splitlines()]
    processors = " and ".join(sorted({run["processor"] for run in runs}))
    arithmetic = " and ".join(sorted({run["arithmetic"] for run in runs}))
    text = (
        f"{latest['step']:,} steps in {latest['core_hours']:.2f} core-hours on {processors} "
        f"(PyTorch {torch.__version__.split('+')[0]}, {arithmetic}), started from the weights packed before."
    )
    if blend < 1:
        text += (
            f" Packed is an interpolation, {blend:g} of these weights and {1 - blend:g} of those that it started from: "
            "chosen on held-out photographs and clips, it keeps more of what was learned before."
        )
    return "\n".join(textwrap.wrap(text, 120))


def attribution(data: Path) -> None:
    """Sources and licences of all training material, beside the weights."""
    with open(CARD.with_name("TRAINING_DATA.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "file", "licence", "source"])
        for part in ("photos", "videos", "meshes"):
            with open(data / part / "ATTRIBUTION.csv", newline="") as source:
                for row in csv.DictReader(source):
                    name = row.get("image") or row["file"]
                    by = [row.get("author_or_project"), row.get("source") or row.get("source_repository_or_package")]
                    writer.writerow([part, name, row["licence"], ", ".join(filter(None, by))])


def picture(tracker: Tracker, photos: Path) -> None:
    """Held-out photographs, each prompted by one click (the dot): the mask in blue, the true outline in yellow."""
    tiles = []
    for name in SHOWN:
        image, instances = load(photos / "images" / f"{name}.jpg")
        truth = instances == np.bincount(instances.ravel())[1:].argmax() + 1
        x, y = deepest(truth)
        session = tracker.start_session()
        mask = session.track(image, prompts={1: Prompt(points=[(float(x), float(y))], labels=[1])}).masks[0]
        image = np.where(mask[..., None], image * 0.45 + np.array([20, 110, 255]) * 0.55, image).astype(np.uint8)
        outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, outlines, -1, (255, 220, 0), 2)
        cv2.circle(image, (int(x), int(y)), 6, (255, 255, 255), -1)
        cv2.circle(image, (int(x), int(y)), 4, (220, 0, 0), -1)
        width = round(image.shape[1] * SHOWN_HEIGHT / image.shape[0])
        tiles.append(cv2.resize(image, (width, SHOWN_HEIGHT), interpolation=cv2.INTER_AREA))
    half = len(tiles) // 2
    strips = [np.hstack(tiles[:half]), np.hstack(tiles[half:])]
    wide = max(strip.shape[1] for strip in strips)
    strips = [np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    cv2.imwrite(str(PICTURE), cv2.cvtColor(np.vstack(strips), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
