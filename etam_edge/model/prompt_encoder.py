"""The prompt encoder: points and box corners to tokens, mask logits to a dense map, as in SAM."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from etam_edge.model.layers import LayerNorm2d
from etam_edge.model.position import RandomPosition
from etam_edge.spec import ModelSpec

PADDING_LABEL = -1
"""Label of a padding point. Labels 0 and 1 are clicks, 2 and 3 the corners of a box."""


class PromptEncoder(nn.Module):
    """Embeddings of points, labels and masks."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.pe_layer = RandomPosition(spec.width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, spec.width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, spec.width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, spec.width, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, spec.width)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points (B, P, 2) in model pixels with labels (B, P) to tokens (B, P, width). Adds no padding point."""
        tokens = self.pe_layer((points + 0.5) / self.spec.image_size)
        labels = labels.unsqueeze(-1)
        tokens = torch.where(labels == PADDING_LABEL, self.not_a_point_embed.weight, tokens)
        for label, embedding in enumerate(self.point_embeddings):
            weight = cast(nn.Embedding, embedding).weight
            tokens = tokens + (labels == label).to(tokens.dtype) * weight
        return tokens

    def padding_tokens(self, count: int) -> Tensor:
        """Tokens of padding points, (1, count, width)."""
        return self.not_a_point_embed.weight[None].expand(1, count, -1)

    def embed_mask(self, mask_logits: Tensor) -> Tensor:
        """(B, 1, 4s, 4s) to (B, width, s, s)."""
        return self.mask_downscaling(mask_logits)

    def no_mask(self) -> Tensor:
        """The embedding that replaces a mask where there is none, (1, width, 1, 1)."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def image_position(self) -> Tensor:
        """Position encoding of the feature grid, (1, width, s, s)."""
        return self.pe_layer.grid(self.spec.grid)
