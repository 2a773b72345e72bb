"""A clip through the model, differentiable, as it will be tracked: prompts, memory, corrections, and their losses.

Losses and prompt simulation are SAM 2's (Ravi et al. 2024, appendix on training) with one change: cross entropy in
place of the focal loss, which from scratch keeps answering with empty masks for much longer. Of three candidates the
best one learns, all learn to predict their IoU. One batch has one kind of prompt, so that all its objects go through
the decoder together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etam_edge.model import EfficientTAM
from etam_edge.model.efficienttam import Segmentation
from etam_edge.model.layers import to_tokens
from etam_edge.model.mask_decoder import Candidates, Choice
from etam_edge.model.reference_tracker import LOGIT_LIMIT

ENTROPY, DICE, IOU, SCORE = 3.0, 1.0, 1.0, 1.0
ALL_CANDIDATES = 0.05
"""Share of the mask loss that also the candidates other than the best one get, so that none of them stays untrained."""
ERROR_CLICKS = 2


@dataclass(frozen=True)
class Plan:
    """How a batch is prompted.

    Attributes:
        kind: 'mask', 'box' or 'point', in the first frame.
        clicks: corrective clicks in the first frame.
        corrected: a later frame that gets a corrective click, or None.
    """

    kind: str
    clicks: int
    corrected: int | None

    @classmethod
    def draw(cls, rng: np.random.Generator, length: int) -> Plan:
        kind = str(rng.choice(["mask", "point", "box"], p=[0.5, 0.35, 0.15]))
        clicks = int(rng.integers(1, ERROR_CLICKS + 1)) if kind != "mask" and rng.random() < 0.3 else 0
        corrected = int(rng.integers(1, length)) if rng.random() < 0.15 else None
        return cls(kind, clicks, corrected)


@dataclass
class Tally:
    """Sums over the answers of a rollout."""

    loss: Tensor | float = 0.0
    answers: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    ious: list[Tensor] = field(default_factory=list)
    scores_right: list[Tensor] = field(default_factory=list)
    measures: dict[str, Tensor] = field(default_factory=dict)
    """What else was measured, a value an object."""

    def add(self, **parts: Tensor) -> None:
        self.loss = self.loss + sum(parts.values())
        self.answers += 1
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + float(value.detach())


class Rollout:
    """Track the objects of a batch of clips from their first frames on.

    Args:
        model: at the frames' size.
        masks: uint8 (C, N, K, S, S); K objects in each of C clips.
    """

    def __init__(self, model: EfficientTAM, masks: Tensor, rng: np.random.Generator) -> None:
        self.model, self.rng = model, rng
        clips, length, objects = masks.shape[:3]
        self.objects = objects
        # (N, B, 1, S, S) with B = C * K
        self.full = masks.transpose(0, 1).reshape(length, clips * objects, 1, *masks.shape[3:]).float()
        self.low = torch.stack([F.avg_pool2d(mask, 4) for mask in self.full])
        self.present = self.full.flatten(2).amax(2) > 0
        self.conditioning: list[tuple[Tensor, Tensor]] = []
        self.tracked: list[tuple[Tensor, Tensor]] = []
        self.tally = Tally()

    def run(self, frames: Tensor, plan: Plan) -> Tally:
        """frames: uint8 RGB (C, N, S, S, 3)."""
        clips, length = frames.shape[:2]
        features = self.model.encode(frames.flatten(0, 1)).unflatten(0, (clips, length))
        for t in range(length):
            raw = features[:, t].repeat_interleave(self.objects, 0)
            if t == 0:
                self._first(raw, plan)
            else:
                self._follow(t, raw, plan.corrected == t)
        return self.tally

    def _first(self, raw: Tensor, plan: Plan) -> None:
        if plan.kind == "mask":
            points, labels = self._no_points()
            prompt = self.model.mask_downsample(self.full[0])
            answer = self._answer(0, raw, points, labels, prompt, multimask=False, mask_weight=0.2)
            logits = F.interpolate(self.full[0] * 20 - 10, scale_factor=0.25, mode="bilinear", antialias=True)
            self._remember(raw, logits, answer.pointer, binarise=True, conditioning=True)
            return
        features = self.model.without_memory(raw)
        points, labels = self._box() if plan.kind == "box" else self._click(self.low[0] > 0.5, torch.ones_like)
        answer = self._answer(0, features, points, labels, None, multimask=labels.shape[1] == 1)
        for _ in range(plan.clicks):
            more = self._correction(0, answer.mask_logits)
            points, labels = torch.cat((points, more[0]), 1), torch.cat((labels, more[1]), 1)
            previous = answer.mask_logits.detach().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            answer = self._answer(0, features, points, labels, previous, multimask=False)
        self._remember(raw, answer.mask_logits, answer.pointer, binarise=False, conditioning=True)

    def _follow(self, t: int, raw: Tensor, corrected: bool) -> None:
        features = self._condition(raw)
        answer = self._answer(t, features, *self._no_points(), None, multimask=True, tracked=True)
        if corrected:
            previous = answer.mask_logits.detach().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            answer = self._answer(t, features, *self._correction(t, answer.mask_logits), previous, multimask=True)
        self._remember(raw, answer.mask_logits, answer.pointer, binarise=False, conditioning=False)

    def _condition(self, raw: Tensor) -> Tensor:
        model, spec = self.model, self.model.spec
        codes = model.maskmem_tpos_enc
        recent = self.tracked[::-1]
        entries = [(memory, codes[spec.memory_frames - 1]) for memory, _ in self.conditioning]
        entries += [(memory, codes[age]) for age, (memory, _) in enumerate(recent[: spec.recent_frames])]
        pointers = [pointer for _, pointer in self.conditioning + recent[: spec.max_object_pointers - 1]]
        memory = torch.cat([to_tokens(memory) for memory, _ in entries], 1)
        position = torch.cat([model.memory_position + code for _, code in entries], 1)
        tokens = torch.cat([pointer.reshape(len(raw), -1, spec.memory_width) for pointer in pointers], 1)
        return model.condition(raw, memory, position, tokens)

    def _remember(self, raw: Tensor, logits: Tensor, pointer: Tensor, binarise: bool, conditioning: bool) -> None:
        entry = self.model.remember(raw, logits, binarise), pointer
        (self.conditioning if conditioning else self.tracked).append(entry)

    def _answer(
        self,
        t: int,
        features: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_logits: Tensor | None,
        multimask: bool,
        tracked: bool = False,
        mask_weight: float = 1.0,
    ) -> Segmentation:
        """One answer of the decoder, its losses tallied."""
        candidates = self.model.propose(features, points, labels, mask_logits)
        side = self.model.spec.mask_size
        masks = (candidates.kernels @ candidates.upscaled.flatten(2)).unflatten(2, (side, side)).float()
        first, last = (1, 4) if multimask else (0, 1)
        self._losses(t, masks[:, first:last], candidates, first, tracked, mask_weight)
        index = candidates.ious[:, first:last].argmax(1) + first
        each = torch.arange(len(index), device=index.device)
        choice = Choice(
            masks[each, index][:, None], candidates.ious[each, index][:, None], candidates.tokens[each, index], index
        )
        return self.model.settle(choice, candidates.score.float())

    def _losses(
        self, t: int, masks: Tensor, candidates: Candidates, first: int, tracked: bool, mask_weight: float
    ) -> None:
        target, present = self.low[t], self.present[t, :, None].float()
        each = ENTROPY * entropy_loss(masks, target) + DICE * dice_loss(masks, target)
        best = each.argmin(1, keepdim=True)
        count = present.sum().clamp(min=1)
        share = (1 - ALL_CANDIDATES) * each.gather(1, best) + ALL_CANDIDATES * each.mean(1, keepdim=True)
        with torch.no_grad():
            actual = iou(masks > 0, target > 0.5)
        guessed = candidates.ious[:, first : first + masks.shape[1]].float()
        score = F.binary_cross_entropy_with_logits(candidates.score.float(), present)
        self.tally.add(
            mask=mask_weight * (share * present).sum() / count,
            iou=IOU * mask_weight * ((guessed - actual).abs().mean(1, keepdim=True) * present).sum() / count,
            score=SCORE * score,
        )
        if tracked:
            taken = actual.gather(1, guessed.argmax(1, keepdim=True)) * (candidates.score > 0)
            self.tally.ious.append(taken[present > 0])
            self.tally.scores_right.append((candidates.score > 0) == (present > 0))

    def _no_points(self) -> tuple[Tensor, Tensor]:
        count = self.full.shape[1]
        return self.full.new_zeros(count, 1, 2), -self.full.new_ones(count, 1).long()

    def _click(self, where: Tensor, label: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """A random cell of each (B, 1, h, w) mask, as (B, 1, 2) model pixels and (B, 1) labels."""
        flat = where.flatten(1).float() + 1e-6
        index = torch.multinomial(flat, 1)
        width = where.shape[-1]
        cell = torch.stack((index % width, index // width), -1).float()
        return cell * 4 + 1.5 + torch.rand_like(cell), label(index)

    def _correction(self, t: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A click on what is wrong: positive where the object was missed, negative where it was invented."""
        target = self.low[t] > 0.5
        wrong = (logits.detach() > 0) != target
        wrong = torch.where(wrong.flatten(1).any(1)[:, None, None, None], wrong, torch.ones_like(wrong))
        points, index = self._click(wrong, lambda index: index)
        return points, target.flatten(1).gather(1, index).long()

    def _box(self) -> tuple[Tensor, Tensor]:
        """Boxes around the objects, their corners off by up to a tenth: points labelled 2 and 3."""
        corners = []
        for mask in self.full[0, :, 0]:
            rows, columns = torch.where(mask.amax(1) > 0)[0], torch.where(mask.amax(0) > 0)[0]
            if not len(rows):
                corners.append([0.0, 0.0, 1.0, 1.0])
                continue
            box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
            size = np.tile(box[2:] - box[:2], 2)
            corners.append((box + self.rng.uniform(-0.1, 0.1, 4) * size).clip(0, mask.shape[0]).tolist())
        points = self.full.new_tensor(corners).reshape(-1, 2, 2)
        return points, torch.tensor([[2, 3]], device=points.device).expand(len(points), -1)


def entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of (B, M, h, w) against soft targets (B, 1, h, w): mean over pixels, (B, M)."""
    return F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none").mean((2, 3))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    chance = torch.sigmoid(logits)
    overlap = (chance * target).sum((2, 3))
    return 1 - (2 * overlap + 1) / (chance.sum((2, 3)) + target.sum((2, 3)) + 1)


def iou(mask: Tensor, target: Tensor) -> Tensor:
    """(B, M, h, w) and (B, 1, h, w) bool: (B, M)."""
    inter, union = (mask & target).sum((2, 3)), (mask | target).sum((2, 3))
    return inter / union.clamp(min=1)
