"""Write the goldens of image segmentation: what the reference's image predictor answers on seeded weights.

    python tests/data/image_parity/make_goldens.py --reference EfficientTAM

Needs torch, hydra-core, iopath, tqdm and a checkout of https://github.com/yformer/EfficientTAM. The five functions that
the reference imports from torchvision are given here in terms of torch, which torchvision itself calls: no torchvision
has to match the installed torch.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
SEED = 11
VARIANTS = ("efficienttam_ti_512x512", "efficienttam_s")
CROP = (slice(30, 200), slice(0, 256))
"""Part of the first stored frame that is not square: the reference resizes it."""
EVERYTHING = {
    "points_per_side": 6,
    "points_per_batch": 16,
    "pred_iou_thresh": 0.4,
    "stability_score_thresh": 0.3,
    "stability_score_offset": 0.1,
    "mask_threshold": 6.9,
    "box_nms_thresh": 0.9,
    "crop_n_layers": 1,
    "crop_nms_thresh": 0.95,
    "crop_n_points_downscale_factor": 2,
}
"""Seeded weights segment nothing: with the default thresholds one mask would be left, which covers the image."""


class _ToTensor:
    def __call__(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


class _Resize(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, image: Tensor) -> Tensor:
        size = [self.height, self.width]
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


class _Normalize(nn.Module):
    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    assert not categories.any(), "the reference has one category"
    kept: list[int] = []
    for index in torch.sort(scores, descending=True, stable=True).indices.tolist():
        others = boxes[kept]
        corner = torch.minimum(boxes[index, 2:], others[:, 2:]) - torch.maximum(boxes[index, :2], others[:, :2])
        shared = corner.clamp(min=0).prod(dim=1)
        union = _box_area(boxes[index : index + 1]) + _box_area(others) - shared
        if not (shared / union > iou_threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def stand_in_for_torchvision() -> None:
    transforms, ops, boxes = (ModuleType(f"torchvision.{name}") for name in ("transforms", "ops", "ops.boxes"))
    transforms.ToTensor, transforms.Resize, transforms.Normalize = _ToTensor, _Resize, _Normalize  # type: ignore[attr-defined]
    boxes.batched_nms, boxes.box_area = _batched_nms, _box_area  # type: ignore[attr-defined]
    for module in (ModuleType("torchvision"), transforms, ops, boxes):
        sys.modules[module.__name__] = module


def answers(predictor: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """The predictor's answers to the prompts of `prompts.py`, by name."""
    from prompts import prompts  # type: ignore[import-not-found]

    predictor.set_image(image)
    found: dict[str, np.ndarray] = {}
    logits: dict[str, np.ndarray] = {}
    for name, given in prompts(image.shape[:2]).items():
        arguments = {key: np.array(given[key]) for key in ("point_coords", "point_labels", "box") if key in given}
        if "refines" in given:
            arguments["mask_input"] = logits[given["refines"]]
        masks, ious, low = predictor.predict(**arguments, multimask_output=given["multimask"])
        best = np.argmax(ious, axis=-1)
        logits[name] = low[best][None] if low.ndim == 3 else low
        found[f"{name}/ious"] = ious
        found[f"{name}/mask_logits_every5"] = low[..., ::5, ::5]
        found[f"{name}/mask_bits"] = np.packbits(masks > 0)
    return found


def everything(generator: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """The generator's records in its order, one array for each field."""
    records = generator.generate(image)
    fields = {
        name: np.array([record[name] for record in records])
        for name in ("area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box")
    }
    masks = np.packbits(np.stack([record["segmentation"] for record in records]))
    return {f"everything/{name}": values for name, values in {**fields, "mask_bits": masks}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    options = parser.parse_args()
    stand_in_for_torchvision()
    sys.path[:0] = [str(options.reference), str(ROOT), str(FOLDER)]
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    from efficient_track_anything.automatic_mask_generator import (  # type: ignore[import-not-found]
        EfficientTAMAutomaticMaskGenerator,
    )
    from efficient_track_anything.build_efficienttam import build_efficienttam  # type: ignore[import-not-found]
    from efficient_track_anything.efficienttam_image_predictor import (  # type: ignore[import-not-found]
        EfficientTAMImagePredictor,
    )

    from etam_edge_testing.goldens import frame, seeded_state_dict

    for variant in VARIANTS:
        plain = ["++model.compile_image_encoder=False"]
        config = f"configs/efficienttam/{variant}.yaml"
        model = build_efficienttam(config, device="cpu", hydra_overrides_extra=plain)
        weights = seeded_state_dict(variant, SEED)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
        predictor = EfficientTAMImagePredictor(model)
        kept = {f"square/{name}": value for name, value in answers(predictor, frame(0, model.image_size)).items()}
        crop = frame(0, 256)[CROP]
        if model.image_size == 512:
            kept |= {f"crop/{name}": value for name, value in answers(predictor, crop).items()}
            generator = EfficientTAMAutomaticMaskGenerator(model, **EVERYTHING)
            kept |= everything(generator, frame(0, model.image_size))
        np.savez_compressed(FOLDER / f"{variant}.seed{SEED}.npz", **kept)
        print(variant, len(kept), "arrays", len(kept.get("everything/area", [])), "masks of everything")


if __name__ == "__main__":
    main()
