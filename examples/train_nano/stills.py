"""Single images through the model: clicks, boxes and corrective clicks on many objects, and their losses.

An image is encoded once and prompted many times, which is where a processor's time goes furthest. Losses are those of
`rollout`: of a click's three candidates the best one learns, all learn to predict their IoU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from photos import Still
from rollout import ALL_CANDIDATES, DICE, ENTROPY, IOU, SCORE, Tally, dice_loss, entropy_loss, iou
from torch import Tensor

from etam_edge.model import EfficientTAM
from etam_edge.model.reference_tracker import LOGIT_LIMIT


def still_losses(model: EfficientTAM, stills: Sequence[Still], rng: np.random.Generator, correct: bool = True) -> Tally:
    """Every object by a click and by a box, each corrected by one more click.

    The tally's measures are mean IoUs at mask resolution: 'click' (the candidate with the best predicted IoU),
    'best' (the best of the three), 'box' and 'corrected'.
    """
    device = model.pixel_mean.device
    images = torch.from_numpy(np.stack([still.image for still in stills])).to(device)
    owner = torch.tensor([index for index, still in enumerate(stills) for _ in still.masks], device=device)
    full = torch.from_numpy(np.concatenate([still.masks for still in stills])).to(device).float()[:, None]
    clicks = torch.from_numpy(np.concatenate([still.clicks for still in stills])).to(device)
    features = model.without_memory(model.encode(images))[owner]
    target = F.avg_pool2d(full, 4)
    tally = Tally()
    boxes = torch.from_numpy(np.concatenate([boxes_of(still.masks, rng) for still in stills])).to(device)
    for kind, points, label in (("click", clicks[:, None], [1]), ("box", boxes, [2, 3])):
        labels = torch.tensor([label], device=device).expand(len(points), -1)
        multimask = kind == "click"
        logits, ious = _answer(model, tally, features, points, labels, None, target, multimask)
        taken = ious[1].argmax(1, keepdim=True)
        tally.measures[kind] = ious[0].gather(1, taken).flatten()
        if multimask:
            tally.measures["best"] = ious[0].amax(1)
        if correct:
            previous = logits.gather(1, taken[:, :, None, None].expand(-1, -1, *logits.shape[2:])).detach()
            more, more_labels = correction(previous, target)
            points, labels = torch.cat((points, more), 1), torch.cat((labels, more_labels), 1)
            previous = previous.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            _, ious = _answer(model, tally, features, points, labels, previous, target, False)
            tally.measures["corrected"] = ious[0].flatten()
    return tally


def _answer(
    model: EfficientTAM,
    tally: Tally,
    features: Tensor,
    points: Tensor,
    labels: Tensor,
    previous: Tensor | None,
    target: Tensor,
    multimask: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Mask logits and (actual, predicted) IoUs of the candidates that this kind of prompt reads; losses tallied."""
    candidates = model.propose(features, points, labels, previous)
    side = model.spec.mask_size
    masks = (candidates.kernels @ candidates.upscaled.flatten(2)).unflatten(2, (side, side)).float()
    first, last = (1, 4) if multimask else (0, 1)
    masks, guessed = masks[:, first:last], candidates.ious[:, first:last].float()
    each = ENTROPY * entropy_loss(masks, target) + DICE * dice_loss(masks, target)
    with torch.no_grad():
        actual = iou(masks > 0, target > 0.5)
    best = each.detach().argmin(1, keepdim=True)
    share = (1 - ALL_CANDIDATES) * each.gather(1, best).mean() + ALL_CANDIDATES * each.mean()
    score = F.binary_cross_entropy_with_logits(candidates.score.float(), torch.ones_like(candidates.score).float())
    tally.add(mask=share, iou=IOU * (guessed - actual).abs().mean(), score=SCORE * score)
    return masks, (actual, guessed.detach())


def correction(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A click on what is wrong, (B, 1, 2) and (B, 1): positive where the object was missed, negative elsewhere."""
    inside = target > 0.5
    wrong = (logits > 0) != inside
    wrong = torch.where(wrong.flatten(1).any(1)[:, None, None, None], wrong, torch.ones_like(wrong))
    index = torch.multinomial(wrong.flatten(1).float() + 1e-6, 1)
    width = target.shape[-1]
    cell = torch.stack((index % width, index // width), -1).float()
    return cell * 4 + 1.5 + torch.rand_like(cell), inside.flatten(1).gather(1, index).long()


def boxes_of(masks: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Corners (P, 2, 2) of the boxes around masks (P, S, S), each off by up to a twentieth of the box with an rng."""
    corners = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        if rng is not None:
            box = box + rng.uniform(-0.05, 0.05, 4) * np.tile(box[2:] - box[:2], 2)
        corners.append(box.clip(0, mask.shape[0]))
    return np.stack(corners).reshape(-1, 2, 2).astype(np.float32)
