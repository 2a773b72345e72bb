"""Layers that several parts of the model share."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(C) + key_bias) value, over the last two axes.

    Args:
        query: (..., Q, C); key: (..., K, C); value: (..., K, V). Leading axes broadcast.
        key_bias: added to the scores, broadcast to (..., Q, K).
    """
    if not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_bias)
    # Plain products in the graph: the exporter's decomposition of the fused operator leaves shape arithmetic behind.
    return attention_weights(query, key, key_bias) @ value


def attention_weights(query: Tensor, key: Tensor, key_bias: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(C) + key_bias), (..., Q, K). Arguments as of `attend`."""
    # Scaling the query instead of the scores saves a pass over the much larger score matrix.
    scores = (query * int(query.shape[-1]) ** -0.5) @ key.transpose(-2, -1)
    if key_bias is not None:
        scores = scores + key_bias
    return torch.softmax(scores, dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) to (B, heads, T, C / heads)."""
    # Sizes are converted to Python numbers, so that a traced graph has constants in place of shape arithmetic.
    tokens, channels = int(x.shape[1]), int(x.shape[2])
    return x.reshape(-1, tokens, heads, channels // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, C) to (B, T, heads * C)."""
    heads, tokens, channels = (int(n) for n in x.shape[1:])
    return x.transpose(1, 2).reshape(-1, tokens, heads * channels)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    channels, height, width = (int(n) for n in x.shape[1:])
    return x.reshape(-1, channels, height * width).transpose(1, 2)


def to_map(x: Tensor, grid: int) -> Tensor:
    """(B, grid * grid, C) to (B, C, grid, grid)."""
    return x.transpose(1, 2).reshape(-1, int(x.shape[2]), grid, grid)


class MLP(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, widths: list[int], activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # One LayerNormalization node between two transposes, instead of a chain of reductions: it exports whole, and
        # runtimes keep its accumulation in fp32.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ProjectedAttention(nn.Module):
    """Multi-head attention with projections of queries, keys, values and the output.

    Args:
        width: of queries and output.
        heads: number of heads.
        inner_width: of projected queries, keys and values; `width` if None.
        memory_width: of keys and values before projection; `width` if None.
    """

    def __init__(self, width: int, heads: int, inner_width: int | None = None, memory_width: int | None = None) -> None:
        super().__init__()
        inner_width = inner_width or width
        memory_width = memory_width or width
        self.heads = heads
        self.q_proj = nn.Linear(width, inner_width)
        self.k_proj = nn.Linear(memory_width, inner_width)
        self.v_proj = nn.Linear(memory_width, inner_width)
        self.out_proj = nn.Linear(inner_width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(B, Q, C), (B, K, M), (B, K, M) to (B, Q, C); `key_bias` broadcasts to (B, heads, Q, K)."""
        q = split_heads(self.q_proj(query), self.heads)
        k = split_heads(self.k_proj(key), self.heads)
        v = split_heads(self.v_proj(value), self.heads)
        return self.out_proj(merge_heads(attend(q, k, v, key_bias)))
