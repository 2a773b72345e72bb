"""The patch embedding for the graph: a frame's pixels, as they come, to tokens."""

from __future__ import annotations

from torch import Tensor, nn

from etam_edge.model.efficienttam import EfficientTAM


class PatchProjection(nn.Module):
    """Normalisation and patch embedding in one linear layer over the pixels of a patch.

    A convolution whose step is its size sees every pixel once. As a matrix product it takes pixels in the order in
    which a camera gives them, where the convolution wants whole colour planes: a pass over the frame less.
    """

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        convolution = model.image_encoder.trunk.patch_embed.proj
        weight, mean, std = convolution.weight.data.double(), model.pixel_mean.double(), model.pixel_std.double()
        assert convolution.bias is not None
        self.size = model.spec.patch_size
        self.linear = nn.Linear(3 * self.size**2, convolution.out_channels)
        # (x / 255 - mean) / std, then a linear layer, is one linear layer of x. Nothing is padded, so it is exact.
        self.linear.weight.data = (weight / (255 * std)).permute(0, 2, 3, 1).flatten(1).float()
        self.linear.bias.data = (convolution.bias.data.double() - (weight * mean / std).sum((1, 2, 3))).float()

    def forward(self, frame: Tensor) -> Tensor:
        """Pixels 0 to 255, float32 (B, S, S, 3), to tokens (B, s, s, C)."""
        side, size = int(frame.shape[1]) // self.size, self.size
        patches = frame.reshape(-1, side, size, side, size * 3).permute(0, 1, 3, 2, 4)
        return self.linear(patches.reshape(-1, side, side, size * size * 3))
