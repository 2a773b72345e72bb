"""The patch embedding for the graph: the pixels of a frame, in the order of the frame, to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etam_edge.model.efficienttam import EfficientTAM


class PatchEmbedding(nn.Module):
    """Normalisation and patch embedding as one linear layer over the pixels of a patch, plus the position table.

    The model embeds patches with a convolution whose stride is its size. The equal matrix product reads pixels in the
    order of a camera frame, (H, W, 3); the convolution would need them as three colour planes, one more pass over the
    frame.
    """

    position: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        convolution = model.image_encoder.trunk.patch_embed.proj
        weight, mean, std = convolution.weight.data.double(), model.pixel_mean.double(), model.pixel_std.double()
        if convolution.bias is None:
            raise ValueError("the patch embedding has no bias")
        self.size = model.spec.patch_size
        self.linear = nn.Linear(3 * self.size**2, convolution.out_channels)
        # (x / 255 - mean) / std followed by a linear layer is one linear layer of x; exact, since nothing is padded.
        self.linear.weight.data = (weight / (255 * std)).permute(0, 2, 3, 1).flatten(1).float()
        self.linear.bias.data = (convolution.bias.data.double() - (weight * mean / std).sum((1, 2, 3))).float()
        self.register_buffer("position", model.image_encoder.trunk.position().detach())

    def forward(self, frame: Tensor) -> Tensor:
        """Pixels 0 to 255, uint8 or float32 (B, S, S, 3), to tokens (B, s, s, C)."""
        # The cast comes first: TensorRT reads uint8 in a cast only.
        frame = frame.to(torch.float32)
        side, size = int(frame.shape[1]) // self.size, self.size
        patches = frame.reshape(-1, side, size, side, size * 3).permute(0, 1, 3, 2, 4)
        return self.linear(patches.reshape(-1, side, side, size * size * 3)) + self.position
