"""The blocks of the ViT for the graph: windows without waste, equal to the padded form to rounding error.

The model pads the grid with zeros to whole windows before it projects queries, keys and values. So the query, key and
value of a padded token are the biases: only real tokens are projected here, and no padded query is asked, because its
answer is cut off. The n padded keys of a window are one key n times over, and n equal keys with equal values are one of
them with ln n added to its score (Lemma 1 of the paper).

At 512 pixels, a grid of 32 x 32, the windowed blocks project 1024 tokens instead of 1764; at 1024 pixels 4096 instead
of 4900.

Cut windows are of up to four sizes, each an attention of its own. Where a few large kernels are faster than more small
ones, the windows can be filled up to whole ones instead, after the projection: `padded`.
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
    """`windows` windows along one side of the grid, of `size` tokens each, from token `start` on."""

    start: int
    windows: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.windows * self.size


def spans(grid: int, window: int) -> list[Span]:
    """The whole windows along a side, and the cut one where the window does not divide the grid."""
    whole, rest = divmod(grid, window)
    found = [Span(0, whole, window), Span(whole * window, 1, rest)]
    return [span for span in found if span.windows and span.size]


class GlobalAttention(nn.Module):
    """Global self-attention. Queries, keys and values have a projection each, so that nothing has to be cut apart."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.key, self.value = _thirds(attention.qkv)
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        _, height, width, channels = (int(n) for n in x.shape)
        tokens = x.reshape(-1, height * width, channels)
        query, key, value = (split_heads(part(tokens), self.heads) for part in (self.query, self.key, self.value))
        return self.proj(merge_heads(attend(query, key, value))).reshape(-1, height, width, channels)


class WindowAttention(GlobalAttention):
    """Self-attention inside windows.

    Args:
        attention: of the model.
        window: tokens along a side of a whole window.
        padded: fill cut windows up to whole ones. Else they have their real tokens and one key for all that pads them.
    """

    def __init__(self, attention: SelfAttention, window: int, padded: bool) -> None:
        super().__init__(attention)
        self.window = window
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        height, width = (int(n) for n in x.shape[1:3])
        projections = (self.query, self.key, self.value)
        parts = [projection(x) for projection in projections]
        if self.padded:
            parts = [self._filled(part, by) for part, by in zip(parts, projections, strict=True)]
        rows = [
            _joined([self._attend(parts, row, column) for column in spans(int(parts[0].shape[2]), self.window)], axis=2)
            for row in spans(int(parts[0].shape[1]), self.window)
        ]
        return self.proj(_joined(rows, axis=1)[:, :height, :width])

    def _filled(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """(B, H, W, C) to whole windows, with what padded tokens are projected to."""
        batch, height, width, channels = (int(n) for n in x.shape)
        right, below = -width % self.window, -height % self.window
        token = projection.bias.reshape(1, 1, 1, channels)
        if right:
            x = torch.cat((x, token.expand(batch, height, right, channels)), dim=2)
        if below:
            x = torch.cat((x, token.expand(batch, below, width + right, channels)), dim=1)
        return x

    def _attend(self, parts: Sequence[Tensor], row: Span, column: Span) -> Tensor:
        """Windows of one size: queries, keys and values (B, H, W, C) to what those windows answer, (B, h, w, C)."""
        query, key, value = (self._windows(part, row, column) for part in parts)
        bias = None
        padding = self.window**2 - row.size * column.size
        if padding:
            key, value = self._with_padding(key, self.key), self._with_padding(value, self.value)
            bias = torch.zeros(1, 1, 1, row.size * column.size + 1)
            bias[..., -1] = math.log(padding)
        answer = attend(query, key, value, bias)
        channels = self.heads * int(answer.shape[-1])
        answer = answer.reshape(
            -1, row.windows, column.windows, self.heads, row.size, column.size, int(answer.shape[-1])
        )
        answer = answer.permute(0, 1, 4, 2, 5, 3, 6)
        return answer.reshape(-1, row.windows * row.size, column.windows * column.size, channels)

    def _windows(self, x: Tensor, row: Span, column: Span) -> Tensor:
        """(B, H, W, C) to (B * windows, heads, tokens of a window, C / heads)."""
        channels = int(x.shape[3]) // self.heads
        x = x[:, row.start : row.stop, column.start : column.stop]
        x = x.reshape(-1, row.windows, row.size, column.windows, column.size, self.heads, channels)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.heads, row.size * column.size, channels)

    def _with_padding(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """One token more in every window: what a padded token is projected to."""
        padded = projection.bias.reshape(1, self.heads, 1, -1)
        return torch.cat((x, padded.expand(int(x.shape[0]), -1, -1, -1)), dim=2)


class StaticBlock(nn.Module):
    """A ViT block for the graph, of the same weights; `padded_windows` as `padded` of `WindowAttention`."""

    def __init__(self, block: Block, padded_windows: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        if block.window is None:
            self.attn = GlobalAttention(block.attn)
        else:
            self.attn = WindowAttention(block.attn, block.window, padded_windows)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def _thirds(qkv: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    width = qkv.in_features
    made = []
    for start in range(0, 3 * width, width):
        part = nn.Linear(width, width)
        part.weight.data = qkv.weight.data[start : start + width].clone()
        part.bias.data = qkv.bias.data[start : start + width].clone()
        made.append(part)
    return made[0], made[1], made[2]


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat(tuple(parts), dim=axis) if len(parts) > 1 else parts[0]
