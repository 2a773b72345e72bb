"""The mask decoder: SAM's two-way transformer, four mask candidates, their predicted IoU and the occlusion score."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from etam_edge.model.layers import MLP, LayerNorm2d, ProjectedAttention, to_map, to_tokens
from etam_edge.spec import MASK_TOKENS, ModelSpec

STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


class Candidates(NamedTuple):
    """The decoder's mask candidates: 0 is the single mask, 1 to 3 are the alternatives for an ambiguous prompt."""

    upscaled: Tensor
    """(B, width / 8, 4s, 4s): features at mask resolution. A mask is their product with a kernel."""
    kernels: Tensor
    """(B, 4, width / 8), one for each candidate."""
    ious: Tensor
    """(B, 4), predicted IoU in [0, 1]."""
    tokens: Tensor
    """(B, 4, width), output tokens of the candidates."""
    score: Tensor
    """(B, 1), object score logit; <= 0 if the object is not visible."""


class Choice(NamedTuple):
    """The candidate that was chosen."""

    mask_logits: Tensor
    """(B, 1, 4s, 4s)"""
    iou: Tensor
    """(B, 1)"""
    token: Tensor
    """(B, width), the token that becomes the object pointer."""
    candidate: Tensor
    """(B,) int64, index of the candidate, 0 to 3."""


class TwoWayBlock(nn.Module):
    """A block of SAM's two-way transformer: tokens attend to themselves and to the image, and the image to tokens."""

    def __init__(self, spec: ModelSpec, first: bool) -> None:
        super().__init__()
        width, heads = spec.width, spec.decoder_heads
        self.first = first
        self.self_attn = ProjectedAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = ProjectedAttention(width, heads, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP([width, spec.decoder_mlp_width, width])
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = ProjectedAttention(width, heads, width // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor, token_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, token_bias)
        else:
            query = tokens + token_position
            tokens = tokens + self.self_attn(query, query, tokens, token_bias)
        tokens = self.norm1(tokens)
        image_key = image + image_position
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_position, image_key, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(image_key, tokens + token_position, tokens, token_bias)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """SAM's two-way transformer over prompt and output tokens (B, N, width) and image tokens (B, T, width)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(spec, first=index == 0) for index in range(spec.decoder_depth))
        self.final_attn_token_to_image = ProjectedAttention(spec.width, spec.decoder_heads, spec.width // 2)
        self.norm_final_attn = nn.LayerNorm(spec.width)

    def forward(
        self, image: Tensor, image_position: Tensor, tokens: Tensor, token_bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        position = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, position, image_position, token_bias)
        attended = self.final_attn_token_to_image(tokens + position, image + image_position, image)
        return self.norm_final_attn(tokens + attended), image


class MaskDecoder(nn.Module):
    """Image features and prompt tokens to mask candidates; `best` and `single` choose among them."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.transformer = TwoWayTransformer(spec)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP([width, width, width, width // 8]) for _ in range(MASK_TOKENS)
        )
        self.iou_prediction_head = MLP([width, width, width, MASK_TOKENS])
        self.pred_obj_score_head = MLP([width, width, width, 1])

    def forward(
        self,
        features: Tensor,
        image_position: Tensor,
        prompt_tokens: Tensor,
        dense_prompt: Tensor,
        prompt_token_bias: Tensor | None = None,
    ) -> Candidates:
        """
        Args:
            features: (B, width, s, s).
            image_position: (1, width, s, s).
            prompt_tokens: (1 or B, P, width).
            dense_prompt: broadcast to `features`.
            prompt_token_bias: added to attention scores of the prompt tokens, (B, P): 0, or a large negative number for
                tokens of slots without a point.
        """
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))[None]
        # The model's own tokens are repeated for every object by broadcasting: an expansion would need the batch size,
        # which is not constant in an exported graph.
        tokens = torch.cat((own + 0.0 * prompt_tokens[:, :1], prompt_tokens), dim=1)
        bias = None
        if prompt_token_bias is not None:
            free = 0.0 * prompt_token_bias[:, :1] + prompt_token_bias.new_zeros(1, int(own.shape[1]))
            bias = torch.cat((free, prompt_token_bias), dim=1)[:, None, None]
        image = to_tokens(features + dense_prompt)
        hidden, image = self.transformer(image, to_tokens(image_position), tokens, bias)

        mask_hidden = hidden[:, 2 : 2 + MASK_TOKENS]
        kernels = [mlp(mask_hidden[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        return Candidates(
            upscaled=self.output_upscaling(to_map(image, self.spec.grid)),
            kernels=torch.stack(kernels, dim=1),
            ious=torch.sigmoid(self.iou_prediction_head(hidden[:, 1])),
            tokens=mask_hidden,
            score=self.pred_obj_score_head(hidden[:, 0]),
        )

    def best(self, candidates: Candidates) -> Choice:
        """The alternative with the highest predicted IoU. Used for tracked frames and a single click."""
        index = candidates.ious[:, 1:].argmax(dim=-1) + 1
        chosen = (index[:, None] == torch.arange(MASK_TOKENS, device=index.device)).to(candidates.ious.dtype)
        return Choice(
            mask_logits=self._mask(candidates, (chosen[..., None] * candidates.kernels).sum(1, keepdim=True)),
            iou=(chosen * candidates.ious).sum(1, keepdim=True),
            token=(chosen[..., None] * candidates.tokens).sum(1),
            candidate=index,
        )

    def single(self, candidates: Candidates) -> Choice:
        """Candidate 0, or the best alternative where candidate 0 is not stable. The pointer is always of candidate 0.

        A mask is stable if its area above logit +0.05 is at least 0.98 of its area above logit -0.05 (as in SAM 2).
        """
        mask = self._mask(candidates, candidates.kernels[:, :1])
        inner = (mask > STABILITY_DELTA).to(mask.dtype).sum((2, 3))
        outer = (mask > -STABILITY_DELTA).to(mask.dtype).sum((2, 3))
        # An empty mask (0 of 0 pixels) counts as stable.
        stable = inner >= STABILITY_THRESHOLD * outer
        best = self.best(candidates)
        return Choice(
            mask_logits=torch.where(stable[..., None, None], mask, best.mask_logits),
            iou=torch.where(stable, candidates.ious[:, :1], best.iou),
            token=candidates.tokens[:, 0],
            candidate=best.candidate * (~stable[:, 0]),
        )

    def masks(self, candidates: Candidates) -> Tensor:
        """Logits of all four candidates, (B, 4, 4s, 4s)."""
        return self._mask(candidates, candidates.kernels)

    def _mask(self, candidates: Candidates, kernels: Tensor) -> Tensor:
        """Logits of the masks of kernels (B, K, width / 8), (B, K, 4s, 4s)."""
        side, channels = self.spec.mask_size, self.spec.width // 8
        logits = kernels @ candidates.upscaled.reshape(-1, channels, side * side)
        return logits.reshape(-1, int(kernels.shape[1]), side, side)
