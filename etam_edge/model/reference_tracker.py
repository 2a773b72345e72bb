"""Tracking with the PyTorch model, with memory organised as in the reference: whole frames in dictionaries.

Written for clarity: the runtimes store memory in another form, and tests compare their outputs with these. Memory and
masks stay float32 (the reference's predictor stores memory in bfloat16), and holes are not filled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etam_edge.model.efficienttam import EfficientTAM, Segmentation
from etam_edge.model.layers import to_tokens

LOGIT_LIMIT = 32.0
"""Previous mask logits are clamped to +-32 before they prompt the decoder again."""


@dataclass
class FrameMemory:
    """Memory of one object from one frame."""

    segmentation: Segmentation
    memory: Tensor
    """(1, memory_width, s, s)."""


@dataclass
class ObjectHistory:
    """Memory of one object by frame index: of conditioning frames and of tracked frames."""

    conditioning: dict[int, FrameMemory] = field(default_factory=dict)
    tracked: dict[int, FrameMemory] = field(default_factory=dict)


class ReferenceTracker:
    """Tracks objects through a stream of frames with the plain model, one object at a time.

    Args:
        model: in evaluation mode.
        corrections_condition: whether a corrected frame becomes a conditioning frame.
        max_conditioning_frames: number of conditioning frames that are read, the nearest in time; None reads all, as
            the reference does.
    """

    def __init__(
        self, model: EfficientTAM, corrections_condition: bool = False, max_conditioning_frames: int | None = None
    ) -> None:
        self.model = model
        self.spec = model.spec
        self.corrections_condition = corrections_condition
        self.max_conditioning_frames = max_conditioning_frames
        self.frame_index = -1
        self.objects: dict[int, ObjectHistory] = {}
        self._features: Tensor | None = None
        self._decoder_features: dict[int, Tensor] = {}

    @torch.inference_mode()
    def track(
        self, frame: np.ndarray, prompts: dict[int, dict[str, np.ndarray]] | None = None
    ) -> dict[int, FrameMemory]:
        """Track every known object on the next frame.

        Args:
            frame: uint8 (S, S, 3) RGB, already at the model's size.
            prompts: by object id, either `points` (P, 2) in model pixels with `labels` (P,), where a box is two points
                labelled 2 and 3, or `mask`, bool (S, S).

        Returns:
            the memory of this frame by object id.
        """
        prompts = prompts or {}
        self.frame_index += 1
        self._features = self.model.encode(torch.from_numpy(frame)[None])
        for object_id in prompts:
            self.objects.setdefault(object_id, ObjectHistory())
        memories = {}
        for object_id, history in self.objects.items():
            if object_id in prompts:
                self._decoder_features[object_id] = self.model.without_memory(self._features)
                memories[object_id] = self._prompt(object_id, prompts[object_id], previous=None)
                history.conditioning[self.frame_index] = memories[object_id]
            else:
                memories[object_id] = self._follow(object_id, history)
                history.tracked[self.frame_index] = memories[object_id]
        return memories

    @torch.inference_mode()
    def refine(self, object_id: int, prompt: dict[str, np.ndarray]) -> FrameMemory:
        """Correct one object on the frame just tracked; prompt as in `track`."""
        history = self.objects[object_id]
        conditioning = self.frame_index in history.conditioning
        previous = (history.conditioning if conditioning else history.tracked)[self.frame_index]
        memory = self._prompt(object_id, prompt, previous.segmentation.mask_logits)
        if conditioning or self.corrections_condition:
            history.tracked.pop(self.frame_index, None)
            history.conditioning[self.frame_index] = memory
        else:
            history.tracked[self.frame_index] = memory
        return memory

    @property
    def _current(self) -> Tensor:
        if self._features is None:
            raise RuntimeError("no frame has been tracked")
        return self._features

    def _prompt(self, object_id: int, prompt: dict[str, np.ndarray], previous: Tensor | None) -> FrameMemory:
        if "mask" in prompt:
            segmentation = self._take_mask(torch.from_numpy(prompt["mask"]))
        else:
            if previous is not None:
                previous = previous.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            points = torch.as_tensor(prompt["points"], dtype=torch.float32)[None]
            labels = torch.as_tensor(prompt["labels"], dtype=torch.int64)[None]
            features = self._decoder_features[object_id]
            segmentation = self.model.segment(features, points, labels, previous, multimask=labels.shape[1] <= 1)
        memory = self.model.remember(self._current, segmentation.mask_logits, binarise=True)
        return FrameMemory(segmentation, memory)

    def _take_mask(self, mask: Tensor) -> Segmentation:
        """A mask prompt is used as the output; only the pointer comes from the decoder."""
        full = mask[None, None].float()
        no_points = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int64)
        decoded = self.model.segment(self._current, *no_points, self.model.mask_downsample(full), multimask=False)
        low = F.interpolate(full * 20 - 10, scale_factor=0.25, mode="bilinear", align_corners=False, antialias=True)
        return decoded._replace(mask_logits=low, iou=torch.ones(1, 1), score=torch.full((1, 1), 10.0))

    def _follow(self, object_id: int, history: ObjectHistory) -> FrameMemory:
        features = self.model.condition(self._current, *self._memory(history))
        self._decoder_features[object_id] = features
        empty = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int64)
        segmentation = self.model.segment(features, *empty, None, multimask=True)
        return FrameMemory(segmentation, self.model.remember(self._current, segmentation.mask_logits, binarise=False))

    def _memory(self, history: ObjectHistory) -> tuple[Tensor, Tensor, Tensor]:
        """Memory tokens, their position encoding with time codes, and pointer tokens for the current frame."""
        now, spec = self.frame_index, self.spec
        selected = sorted(history.conditioning)[-(self.max_conditioning_frames or len(history.conditioning)) :]
        # A conditioning frame beyond the limit counts as a tracked frame while it is recent.
        ordinary = history.tracked | {t: entry for t, entry in history.conditioning.items() if t not in selected}
        codes = self.model.maskmem_tpos_enc
        entries = [(history.conditioning[t], codes[spec.memory_frames - 1]) for t in selected]
        entries += [
            (ordinary[now - age], codes[age - 1]) for age in range(spec.recent_frames, 0, -1) if now - age in ordinary
        ]
        memory = torch.cat([to_tokens(entry.memory) for entry, _ in entries], dim=1)
        position = torch.cat([self.model.memory_position + code for _, code in entries], dim=1)

        pointers = [history.conditioning[t] for t in selected]
        pointers += [ordinary[now - age] for age in range(1, spec.max_object_pointers) if now - age in ordinary]
        tokens = [entry.segmentation.pointer.reshape(1, -1, spec.memory_width) for entry in pointers]
        return memory, position, torch.cat(tokens, dim=1)
