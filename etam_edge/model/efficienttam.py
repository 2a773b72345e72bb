"""The whole model: the operations that tracking is composed of, on plain tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.model.image_encoder import ImageEncoder
from etam_edge.model.layers import MLP, to_map, to_tokens
from etam_edge.model.mask_decoder import Candidates, Choice, MaskDecoder
from etam_edge.model.memory_attention import MemoryAttention
from etam_edge.model.memory_encoder import MemoryEncoder
from etam_edge.model.position import sine_position
from etam_edge.model.prompt_encoder import PromptEncoder
from etam_edge.spec import EMPTY_BIAS, ModelSpec

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
NO_OBJECT_LOGIT = -1024.0
"""Mask logit everywhere when the object is not visible."""
MEMORY_SCALE, MEMORY_SHIFT = 20.0, -10.0
"""The memory encoder reads a mask in [0, 1] as 20 * mask - 10."""


class Segmentation(NamedTuple):
    """The decoder's output for B objects, with occlusion applied."""

    mask_logits: Tensor
    """(B, 1, 4s, 4s); -1024 everywhere if the object is not visible."""
    iou: Tensor
    """(B, 1), predicted IoU in [0, 1]."""
    score: Tensor
    """(B, 1), object score logit; <= 0 if the object is not visible."""
    pointer: Tensor
    """(B, width), the object pointer."""
    choice: Tensor
    """(B,) int64, index of the mask candidate that was chosen."""


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(Tensor(*shape), std=0.02))


class EfficientTAM(nn.Module):
    """EfficientTAM of any `ModelSpec`, with the parameter names of the official checkpoints.

    The methods follow the reference's video predictor in evaluation mode. Occlusion handling, multimask rules and
    memory scaling are those of the released configuration.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.image_encoder = ImageEncoder(spec)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.memory_attention = MemoryAttention(spec)
        self.memory_encoder = MemoryEncoder(spec)
        self.maskmem_tpos_enc = _embedding(spec.memory_frames, 1, 1, spec.memory_width)
        self.no_mem_embed = _embedding(1, 1, spec.width)
        # Not used in this configuration; official checkpoints contain it.
        self.no_mem_pos_enc = _embedding(1, 1, spec.width)
        self.sam_prompt_encoder = PromptEncoder(spec)
        self.sam_mask_decoder = MaskDecoder(spec)
        self.obj_ptr_proj = MLP([spec.width] * 4)
        self.no_obj_ptr = _embedding(1, spec.width)
        constants = {
            "pixel_mean": torch.tensor(PIXEL_MEAN).reshape(1, 3, 1, 1),
            "pixel_std": torch.tensor(PIXEL_STD).reshape(1, 3, 1, 1),
            "features_position": to_tokens(sine_position(spec.width, spec.grid)),
            "memory_position": to_tokens(sine_position(spec.memory_width, spec.grid)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    pixel_mean: Tensor
    pixel_std: Tensor
    features_position: Tensor
    """Sine encoding of the frame's tokens, (1, T, width)."""
    memory_position: Tensor
    """Sine encoding of a memory frame's tokens, (1, T, memory_width)."""

    def encode(self, frame: Tensor) -> Tensor:
        """uint8 RGB (B, S, S, 3) to image features (B, width, s, s)."""
        image = frame.permute(0, 3, 1, 2).to(self.pixel_mean.dtype) / 255.0
        return self.image_encoder((image - self.pixel_mean) / self.pixel_std)

    def without_memory(self, features: Tensor) -> Tensor:
        """Features for a frame that reads no memory: the no-memory embedding is added. Same shape."""
        return features + self.no_mem_embed.reshape(1, -1, 1, 1)

    def condition(self, features: Tensor, memory: Tensor, position: Tensor, pointers: Tensor) -> Tensor:
        """Image features conditioned on memory, (B, width, s, s). Other arguments as of `MemoryCrossAttention`."""
        tokens = self.memory_attention(to_tokens(features), self.features_position, memory, position, pointers)
        return to_map(tokens, self.spec.grid)

    def segment(
        self, features: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor | None, multimask: bool
    ) -> Segmentation:
        """Decode one mask for each object.

        Args:
            features: (B, width, s, s), from `condition` or `without_memory`.
            points: (B, P, 2) in model pixels. A padding point is appended, as in SAM.
            labels: (B, P): 1 inside, 0 outside, 2 and 3 corners of a box, -1 no point.
            mask_logits: a mask prompt, (B, 1, 4s, 4s), or None.
            multimask: take the best of three candidates; otherwise the single candidate, with the stability fallback.
        """
        candidates = self.propose(features, points, labels, mask_logits)
        decoder = self.sam_mask_decoder
        choice = decoder.best(candidates) if multimask else decoder.single(candidates)
        return self.settle(choice, candidates.score)

    def propose(self, features: Tensor, points: Tensor, labels: Tensor, mask_logits: Tensor | None) -> Candidates:
        """The decoder's candidates, of which none is chosen yet. Arguments as of `segment`.

        Without any point (P = 0) the padding point is not read either: the mask logits are the whole prompt.
        """
        prompt = self.sam_prompt_encoder
        tokens = prompt.embed_points(points, labels)
        tokens = torch.cat((tokens, prompt.padding_tokens(1).expand(len(tokens), -1, -1)), dim=1)
        bias = None if points.shape[1] else tokens.new_full(tokens.shape[:2], EMPTY_BIAS)
        dense = prompt.no_mask() if mask_logits is None else prompt.embed_mask(mask_logits)
        return self.sam_mask_decoder(features, prompt.image_position(), tokens, dense, bias)

    def settle(self, choice: Choice, score: Tensor) -> Segmentation:
        """Apply the object score: where it is <= 0, the mask is empty and the pointer is `no_obj_ptr`."""
        visible = score > 0
        return Segmentation(
            mask_logits=torch.where(visible[..., None, None], choice.mask_logits, NO_OBJECT_LOGIT),
            iou=choice.iou,
            score=score,
            pointer=torch.where(visible, self.obj_ptr_proj(choice.token), self.no_obj_ptr),
            choice=choice.candidate,
        )

    def remember(self, features: Tensor, mask_logits: Tensor, binarise: bool) -> Tensor:
        """Encode a frame and its mask as a memory entry, (B, memory_width, s, s).

        Args:
            features: raw image features, (1 or B, width, s, s).
            mask_logits: (B, 1, 4s, 4s).
            binarise: binarise the mask, as for prompted frames; tracked frames take its sigmoid.
        """
        full = F.interpolate(mask_logits, scale_factor=4.0, mode="bilinear", align_corners=False)
        mask = (full > 0).to(full.dtype) if binarise else torch.sigmoid(full)
        return self.memory_encoder(features, mask * MEMORY_SCALE + MEMORY_SHIFT)
