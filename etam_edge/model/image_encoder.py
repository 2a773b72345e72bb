"""The image encoder: a plain ViT with windowed and global blocks, and a neck to one feature level."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.model.layers import MLP, LayerNorm2d, attend, merge_heads, split_heads
from etam_edge.spec import ModelSpec


class PatchEmbed(nn.Module):
    """Patches of an image (B, 3, S, S) to tokens (B, s, s, C)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(merge_heads(attend(query, key, value)))


class Block(nn.Module):
    """A ViT block with global attention, or, with a window size, attention inside windows.

    The grid is padded with zeros to a multiple of the window size.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP([width, mlp_ratio * width, width], nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        x = x + self._attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attention(self, x: Tensor) -> Tensor:
        height, width, channels = (int(n) for n in x.shape[1:])
        if self.window is None:
            return self.attn(x.reshape(-1, height * width, channels)).reshape(-1, height, width, channels)
        # The padding is after the norm, and takes part in attention: its query, key and value are the biases.
        side = self.window
        rows, columns = -(-height // side), -(-width // side)
        x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        x = x.reshape(-1, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, channels))
        x = x.reshape(-1, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(-1, rows * side, columns * side, channels)[:, :height, :width]


class ViT(nn.Module):
    """The plain ViT: patch embedding, absolute positions, and blocks."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.patch_embed = PatchEmbed(spec.patch_size, spec.vit_width)
        # The first entry belongs to the class token of the pretrained model, which is not used.
        self.pos_embed = nn.Parameter(
            0.02 * nn.init.trunc_normal_(Tensor(1, spec.position_grid**2 + 1, spec.vit_width))
        )
        self.blocks = nn.ModuleList(
            Block(
                spec.vit_width,
                spec.vit_heads,
                spec.vit_mlp_ratio,
                None if index in spec.global_blocks else spec.window_size,
            )
            for index in range(spec.vit_depth)
        )

    def position(self) -> Tensor:
        """The position table resized to the grid, (1, s, s, C): bicubic, without antialiasing."""
        side, grid = self.spec.position_grid, self.spec.grid
        table = self.pos_embed[:, 1:].reshape(1, side, side, -1)
        if side == grid:
            return table
        table = F.interpolate(table.permute(0, 3, 1, 2), size=(grid, grid), mode="bicubic", align_corners=False)
        return table.permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, S, S) to (B, C, s, s)."""
        x = self.patch_embed(image) + self.position()
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


class Neck(nn.Module):
    """Two convolutions from the ViT's width to the feature width: (B, C, s, s) to (B, width, s, s)."""

    def __init__(self, vit_width: int, width: int) -> None:
        super().__init__()
        level = nn.Sequential()
        level.add_module("conv_1x1", nn.Conv2d(vit_width, width, kernel_size=1, bias=False))
        level.add_module("norm_0", LayerNorm2d(width))
        level.add_module("conv_3x3", nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False))
        level.add_module("norm_1", LayerNorm2d(width))
        self.convs = nn.ModuleList([level])

    def forward(self, x: Tensor) -> Tensor:
        return self.convs[0](x)


class ImageEncoder(nn.Module):
    """ViT and neck."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.trunk = ViT(spec)
        self.neck = Neck(spec.vit_width, spec.width)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised (B, 3, S, S) to (B, width, s, s)."""
        return self.neck(self.trunk(image))
