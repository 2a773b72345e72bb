"""ViT blocks for the graph: window attention that does not compute padding, equal to the model except for rounding.

The model pads the grid with zeros to whole windows before it projects queries, keys and values. So the query, key and
value of a padded token are the biases. Here only real tokens are projected. Queries of padded tokens are left out,
because the model discards their outputs. The n padded keys of a window are equal, and so are their values; one of them
with ln n added to its score has the same effect (Lemma 1 of the paper).

At 512 pixels, a grid of 32 x 32, the windowed blocks project 1024 tokens instead of 1764; at 1024 pixels 4096 instead
of 4900.

Windows at the border have up to four sizes, and each size is a separate attention. Where a few large kernels are faster
than more small ones, these windows can be padded to whole windows after the projection (`padded`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from etam_edge.model.image_encoder import Block, SelfAttention
from etam_edge.model.layers import attend, merge_heads, split_heads


class Span(NamedTuple):
    """Adjacent windows along one side of the grid: `windows` of them, `size` tokens each, from token `start`."""

    start: int
    windows: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.windows * self.size


def spans(grid: int, window: int) -> list[Span]:
    """The whole windows along a side, and the smaller one at the end if the window does not divide the grid."""
    whole, remainder = divmod(grid, window)
    found = [Span(0, whole, window), Span(whole * window, 1, remainder)]
    return [span for span in found if span.windows and span.size]


class GlobalAttention(nn.Module):
    """Global self-attention with separate projections of queries, keys and values, which need no split afterwards."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.key, self.value = _split_qkv(attention.qkv)
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        _, height, width, channels = (int(n) for n in x.shape)
        tokens = x.reshape(-1, height * width, channels)
        query, key, value = (split_heads(part(tokens), self.heads) for part in (self.query, self.key, self.value))
        return self.proj(merge_heads(attend(query, key, value))).reshape(-1, height, width, channels)


class WindowAttention(GlobalAttention):
    """Self-attention inside windows.

    Args:
        attention: attention of the model.
        window: tokens along a side of a whole window.
        padded: pad windows at the border to whole windows. Otherwise they have their real tokens and one key for all
            padded tokens.
    """

    def __init__(self, attention: SelfAttention, window: int, padded: bool) -> None:
        super().__init__(attention)
        self.window = window
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        height, width = (int(n) for n in x.shape[1:3])
        projections = (self.query, self.key, self.value)
        parts = [projection(x) for projection in projections]
        if self.padded:
            parts = [self._pad_grid(part, by) for part, by in zip(parts, projections, strict=True)]
        rows = [
            _concatenate(
                [self._attend(parts, row, column) for column in spans(int(parts[0].shape[2]), self.window)], axis=2
            )
            for row in spans(int(parts[0].shape[1]), self.window)
        ]
        return self.proj(_concatenate(rows, axis=1)[:, :height, :width])

    def _pad_grid(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """Pad projected tokens (B, H, W, C) to whole windows with the projection of zero, its bias."""
        batch, height, width, channels = (int(n) for n in x.shape)
        right, below = -width % self.window, -height % self.window
        token = projection.bias.reshape(1, 1, 1, channels)
        if right:
            x = torch.cat((x, token.expand(batch, height, right, channels)), dim=2)
        if below:
            x = torch.cat((x, token.expand(batch, below, width + right, channels)), dim=1)
        return x

    def _attend(self, parts: Sequence[Tensor], row: Span, column: Span) -> Tensor:
        """Attention in the windows of one size: queries, keys and values (B, H, W, C) to outputs (B, h, w, C)."""
        query, key, value = (self._windows(part, row, column) for part in parts)
        bias = None
        padding = self.window**2 - row.size * column.size
        if padding:
            key, value = self._with_padding(key, self.key), self._with_padding(value, self.value)
            bias = torch.zeros(1, 1, 1, row.size * column.size + 1)
            bias[..., -1] = math.log(padding)
        output = attend(query, key, value, bias)
        channels = self.heads * int(output.shape[-1])
        output = output.reshape(
            -1, row.windows, column.windows, self.heads, row.size, column.size, int(output.shape[-1])
        )
        output = output.permute(0, 1, 4, 2, 5, 3, 6)
        return output.reshape(-1, row.windows * row.size, column.windows * column.size, channels)

    def _windows(self, x: Tensor, row: Span, column: Span) -> Tensor:
        """(B, H, W, C) to (B * windows, heads, tokens of a window, C / heads)."""
        channels = int(x.shape[3]) // self.heads
        x = x[:, row.start : row.stop, column.start : column.stop]
        x = x.reshape(-1, row.windows, row.size, column.windows, column.size, self.heads, channels)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.heads, row.size * column.size, channels)

    def _with_padding(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """Append one token to every window: the projection of a padded token, the bias."""
        padded = projection.bias.reshape(1, self.heads, 1, -1)
        return torch.cat((x, padded.expand(int(x.shape[0]), -1, -1, -1)), dim=2)


class StaticBlock(nn.Module):
    """A ViT block for the graph, with the weights of `block`. `padded_windows` is `padded` of `WindowAttention`."""

    def __init__(self, block: Block, padded_windows: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        if block.window is None:
            self.attn = GlobalAttention(block.attn)
        else:
            self.attn = WindowAttention(block.attn, block.window, padded_windows)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def _split_qkv(qkv: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """The projections of queries, keys and values in one projection of all three."""
    width = qkv.in_features
    parts = []
    for start in range(0, 3 * width, width):
        part = nn.Linear(width, width)
        part.weight.data = qkv.weight.data[start : start + width].clone()
        part.bias.data = qkv.bias.data[start : start + width].clone()
        parts.append(part)
    return parts[0], parts[1], parts[2]


def _concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat(tuple(parts), dim=axis) if len(parts) > 1 else parts[0]
