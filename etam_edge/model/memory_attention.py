"""Memory attention in plain form: features of the current frame attend to past frames and object pointers.

Attention has one head. Frame and memory tokens are rotated with axial RoPE; object pointers are neither rotated nor
pooled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etam_edge.model.layers import ProjectedAttention, attend
from etam_edge.model.position import rotate, rotation_tables
from etam_edge.spec import ModelSpec, Pooling

LOG_4 = math.log(4.0)


class RotaryAttention(ProjectedAttention):
    """Single-head attention with the rotation tables of the grid."""

    def __init__(self, spec: ModelSpec, memory_width: int | None = None) -> None:
        super().__init__(spec.width, 1, memory_width=memory_width)
        cosine, sine = rotation_tables(spec.width, spec.grid)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    cosine: Tensor
    sine: Tensor


class SelfRotaryAttention(RotaryAttention):
    """Self-attention over the tokens of a frame."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, C) to (B, T, C)."""
        query = rotate(self.q_proj(x), self.cosine, self.sine)
        key = rotate(self.k_proj(x), self.cosine, self.sine)
        return self.out_proj(attend(query, key, self.v_proj(x)))


def pool_tokens(x: Tensor, grid: int) -> Tensor:
    """2x2 average pooling of each of F frames: (B, F * grid * grid, C) to (B, F * grid * grid / 4, C)."""
    frames, channels = int(x.shape[1]) // (grid * grid), int(x.shape[2])
    coarse = x.reshape(-1, frames, grid // 2, 2, grid // 2, 2, channels).mean(dim=(3, 5))
    return coarse.reshape(-1, frames * (grid // 2) ** 2, channels)


class MemoryCrossAttention(RotaryAttention):
    """Attention to memory tokens, which pooled variants pool 2x2 over each memory frame.

    A single memory frame is attended unpooled, as in the reference.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, memory_width=spec.memory_width)
        self.spec = spec

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, pointers: Tensor) -> Tensor:  # type: ignore[override]
        """
        Args:
            x: queries, (B, T, C).
            memory: raw memory features of F frames, (B, F * T, M).
            position: their position encoding with time codes, broadcast to `memory`.
            pointers: object pointer tokens, (B, P, M).
        """
        frames = memory.shape[1] // self.spec.tokens
        query = rotate(self.q_proj(x), self.cosine, self.sine)
        key = rotate(self.k_proj(memory + position), self.cosine.repeat(frames, 1), self.sine.repeat(frames, 1))
        value = self.v_proj(memory)
        bias = None
        if self.spec.pooled and frames > 1:
            key, value = pool_tokens(key, self.spec.grid), pool_tokens(value, self.spec.grid)
            if self.spec.pooling is Pooling.KEY_BIAS:
                key = key + LOG_4
            else:
                spatial = torch.full((1, 1, key.shape[1]), LOG_4, dtype=x.dtype, device=x.device)
                bias = torch.cat((spatial, spatial.new_zeros(1, 1, pointers.shape[1])), dim=-1)
        key = torch.cat((key, self.k_proj(pointers)), dim=1)
        value = torch.cat((value, self.v_proj(pointers)), dim=1)
        return self.out_proj(attend(query, key, value, bias))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to memory, and an MLP, each with a norm before it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.self_attn = SelfRotaryAttention(spec)
        self.cross_attn_image = MemoryCrossAttention(spec)
        self.linear1 = nn.Linear(spec.width, spec.memory_mlp_width)
        self.linear2 = nn.Linear(spec.memory_mlp_width, spec.width)
        self.norm1 = nn.LayerNorm(spec.width)
        self.norm2 = nn.LayerNorm(spec.width)
        self.norm3 = nn.LayerNorm(spec.width)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, pointers: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        x = x + self.cross_attn_image(self.norm2(x), memory, position, pointers)
        return x + self.mlp(x)

    def mlp(self, x: Tensor) -> Tensor:
        return self.linear2(torch.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """The layers of memory attention and the last norm."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(spec) for _ in range(spec.memory_layers))
        self.norm = nn.LayerNorm(spec.width)

    def forward(
        self, features: Tensor, features_position: Tensor, memory: Tensor, position: Tensor, pointers: Tensor
    ) -> Tensor:
        """Conditioned features, (B, T, C).

        Args:
            features: (B, T, C).
            features_position: position encoding of the features, (B, T, C).
            memory: as of `MemoryCrossAttention`, like `position` and `pointers`.
        """
        x = features + 0.1 * features_position
        for layer in self.layers:
            x = layer(x, memory, position, pointers)
        return self.norm(x)
