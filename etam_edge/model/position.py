"""Position encodings: sine over the grid, random Fourier features for prompts, axial rotation for attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sine_position(width: int, size: int) -> Tensor:
    """Sine encoding of a size x size grid, (1, width, size, size): half the channels for y, half for x.

    Positions run from 1 to `size`, normalised to 2 pi; wavelengths up to 10000; sine and cosine interleaved (the
    reference's PositionEmbeddingSine with normalisation).
    """
    half = width // 2
    channel = torch.arange(half, dtype=torch.float32)
    wavelength = 10000 ** (2 * (channel // 2) / half)
    position = torch.arange(1, size + 1, dtype=torch.float32)
    angle = (position / (position[-1] + 1e-6) * (2 * math.pi))[:, None] / wavelength
    line = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)
    rows = line[:, None, :].expand(size, size, half)
    columns = line[None, :, :].expand(size, size, half)
    return torch.cat((rows, columns), dim=2).permute(2, 0, 1)[None].contiguous()


class RandomPosition(nn.Module):
    """Random Fourier features of points in [0, 1] x [0, 1] (SAM's prompt encoding)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, points: Tensor) -> Tensor:
        """(..., 2) as (x, y) in [0, 1] to (..., width)."""
        angle = 2 * math.pi * ((2 * points - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def grid(self, size: int) -> Tensor:
        """The encoding of every cell centre of a size x size grid, (1, width, size, size)."""
        centre = (
            torch.arange(size, dtype=torch.float32, device=self.positional_encoding_gaussian_matrix.device) + 0.5
        ) / size
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self(torch.stack((x, y), dim=-1)).permute(2, 0, 1)[None]


def rotation_tables(width: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of axial RoPE, each (size * size, width / 2).

    The first half of the channel pairs is rotated by x, the second half by y; base 10000.
    """
    frequency = 1.0 / (10000.0 ** (torch.arange(0, width, 4)[: width // 4].float() / width))
    token = torch.arange(size * size, dtype=torch.float32)
    x, y = token % size, torch.div(token, size, rounding_mode="floor")
    angle = torch.cat((torch.outer(x, frequency), torch.outer(y, frequency)), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs (2i, 2i + 1) of (..., T, C) by the angles of the tables, (T, C / 2) each."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)
