"""The memory encoder: image features and the mask of a frame to a memory entry of `memory_width` channels."""

from __future__ import annotations

from torch import Tensor, nn

from etam_edge.model.layers import LayerNorm2d
from etam_edge.spec import ModelSpec


class MaskDownsampler(nn.Module):
    """Four strided convolutions from a full-size mask (B, 1, S, S) to (B, width, s, s)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        channels = 1
        for _ in range(4):
            self.encoder.append(nn.Conv2d(channels, 4 * channels, kernel_size=3, stride=2, padding=1))
            channels *= 4
            self.encoder.append(LayerNorm2d(channels))
            self.encoder.append(nn.GELU())
        self.encoder.append(nn.Conv2d(channels, width, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        return self.encoder(mask)


class FuserBlock(nn.Module):
    """A ConvNeXt block with a 7x7 depthwise convolution and layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(nn.init.constant_(Tensor(width), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """A stack of `FuserBlock`."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Downsampled mask plus projected features, fused and projected to `memory_width`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(spec.width)
        self.pix_feat_proj = nn.Conv2d(spec.width, spec.width, kernel_size=1)
        self.fuser = Fuser(spec.width, spec.fuser_layers)
        self.out_proj = nn.Conv2d(spec.width, spec.memory_width, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            features: raw image features, (1 or B, width, s, s); one frame is shared by all objects.
            mask: full-size mask scaled to [-10, 10], (B, 1, S, S).

        Returns:
            memory features, (B, memory_width, s, s).
        """
        x = self.pix_feat_proj(features) + self.mask_downsampler(mask)
        return self.out_proj(self.fuser(x))
