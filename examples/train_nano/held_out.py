"""What a model does on held-out photographs: a click or a box on every object, in PyTorch, at the photograph's size.

    python examples/train_nano/held_out.py out/nano --data DATA_FOLDER

Of a training it measures the averaged weights; of a safetensors file, the file. The click is the pixel that lies
deepest inside the object, the box is tight, and objects under half a percent of the picture are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from photos import Photos, deepest, load
from PIL import Image

from etam_edge.model import EfficientTAM
from etam_edge.spec import find_spec

SMALLEST = 0.005
KINDS = ("click", "best", "box")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the --output of train.py, or a safetensors file")
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/")
    parser.add_argument("--model", default="etam_nano", help="name of the ModelSpec")
    options = parser.parse_args()
    model = EfficientTAM(find_spec(options.model))
    model.load_state_dict(read(options.weights))
    photos = Photos(options.data / "photos", held_out=True)
    rows = list(photograph_ious(model.eval(), photos.files))
    print(table(rows))


def read(source: Path) -> dict[str, torch.Tensor]:
    """Averaged weights of a training's last checkpoint, or those of a safetensors file, in float32."""
    if source.is_dir():
        folder = source / "checkpoint"
        step = json.loads((folder / "latest.json").read_text())["step"]
        return torch.load(folder / f"{step}.average.pt", map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(source).items()}


@torch.no_grad()
def photograph_ious(model: EfficientTAM, files: Iterable[Path]) -> Iterable[tuple[str, np.ndarray]]:
    """For each photograph its name and the IoUs of its objects, float32 (P, 3) in the order of `KINDS`."""
    side, device = model.spec.image_size, model.pixel_mean.device
    for file in files:
        image, instances = load(file)
        counts = np.bincount(instances.ravel())[1:]
        numbers = np.flatnonzero(counts >= SMALLEST * instances.size) + 1
        if not len(numbers):
            continue
        masks = np.stack([instances == number for number in numbers])
        small = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        features = model.without_memory(model.encode(torch.from_numpy(small)[None].to(device)))
        features = features.expand(len(masks), -1, -1, -1)
        scale = torch.tensor([side / image.shape[1], side / image.shape[0]])
        clicks = torch.from_numpy(np.stack([deepest(mask) for mask in masks]))[:, None] * scale
        boxes = torch.from_numpy(tight_boxes(masks)) * scale
        truth = torch.from_numpy(masks)[:, None].to(device)
        one = torch.ones(len(masks), 1, dtype=torch.int64, device=device)
        candidates = model.propose(features, clicks.to(device), one, None)
        low = model.spec.mask_size
        logits = (candidates.kernels[:, 1:] @ candidates.upscaled.flatten(2)).unflatten(2, (low, low))
        each = _iou(logits, truth)
        taken = candidates.ious[:, 1:].argmax(1, keepdim=True)
        corners = torch.tensor([[2, 3]], device=device).expand(len(masks), -1)
        single = model.sam_mask_decoder.single(model.propose(features, boxes.to(device), corners, None))
        box = _iou(single.mask_logits, truth)
        found = torch.cat((each.gather(1, taken), each.amax(1, keepdim=True), box), 1)
        yield file.stem, found.cpu().numpy()


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes in pixels of masks of any aspect, (P, 2, 2)."""
    corners = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        corners.append([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]])
    return np.array(corners, np.float32)


def _iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    masks = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False) > 0
    return (masks & truth).sum((2, 3)) / (masks | truth).sum((2, 3)).clamp(min=1)


def summary(rows: list[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Means over photographs, each the mean over its objects, and over all objects ('..._objects')."""
    of_photos = np.mean([found.mean(0) for _, found in rows], 0)
    of_objects = np.concatenate([found for _, found in rows]).mean(0)
    names = [*KINDS, *(f"{kind}_objects" for kind in KINDS)]
    return dict(zip(names, map(float, [*of_photos, *of_objects]), strict=True))


def table(rows: list[tuple[str, np.ndarray]]) -> str:
    means = summary(rows)
    lines = ["| mean IoU | one click | best of three | box |", "| --- | --- | --- | --- |"]
    for name, suffix in ((f"{len(rows)} photographs", ""), (f"{sum(len(f) for _, f in rows)} objects", "_objects")):
        lines.append(f"| {name} | " + " | ".join(f"{means[kind + suffix]:.3f}" for kind in KINDS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
