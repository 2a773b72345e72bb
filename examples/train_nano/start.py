"""Where training starts: weights that already look, compare and remember a little, so that less has to be learned.

Found by reasoning, not by search: a patch embedding of smooth cosine patterns, a sine position table, residual branches
that start silent, and memory attention that starts by looking at the same place. All of it stays trainable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etam_edge.model import EfficientTAM
from etam_edge.model.memory_attention import MemoryCrossAttention, SelfRotaryAttention
from etam_edge.model.memory_encoder import FuserBlock
from etam_edge.model.position import sine_position

SAME_PLACE = 1.2
"""Query and key bias of memory attention: rotated by position, a constant is most like itself at the same place."""
VISIBLE = 2.0
"""First guess of the object score: most objects are in sight, and a hidden one teaches the masks nothing."""


@torch.no_grad()
def initialise(model: EfficientTAM) -> None:
    """Set the weights in place, from the current random state."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    trunk = model.image_encoder.trunk
    trunk.patch_embed.proj.weight.copy_(cosine_patches(*trunk.patch_embed.proj.weight.shape[:3:2]))
    trunk.patch_embed.proj.bias.zero_()
    table = sine_position(trunk.spec.vit_width, trunk.spec.position_grid)[0].flatten(1).T
    trunk.pos_embed[0, 1:] = 0.3 * table
    for block in trunk.blocks:
        block.attn.proj.weight.mul_(0.1)
        block.mlp.layers[1].weight.mul_(0.1)
    for module in model.modules():
        if isinstance(module, MemoryCrossAttention):
            module.q_proj.bias.fill_(SAME_PLACE)
            module.k_proj.bias.fill_(SAME_PLACE)
        elif isinstance(module, SelfRotaryAttention):
            module.q_proj.bias.fill_(0.5 * SAME_PLACE)
            module.k_proj.bias.fill_(0.5 * SAME_PLACE)
            module.out_proj.weight.mul_(0.1)
        elif isinstance(module, FuserBlock):
            module.gamma.fill_(0.1)
    model.mask_downsample.weight.fill_(1 / 16)
    model.mask_downsample.bias.zero_()
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(VISIBLE)


def cosine_patches(channels: int, size: int) -> Tensor:
    """Lowest two-dimensional cosine patterns over brightness and two colour differences, (channels, 3, size, size).

    Half the channels see brightness, a quarter each colour difference. Finer patterns are amplified as natural images
    weaken them (their amplitude falls with frequency).
    """
    position = torch.arange(size) + 0.5
    waves = [(u, v) for u in range(size) for v in range(size)]
    waves.sort(key=lambda wave: wave[0] ** 2 + wave[1] ** 2)
    opponent = torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]])
    opponent = opponent / opponent.norm(dim=1, keepdim=True)
    shares = channels // 2, channels // 4, channels - channels // 2 - channels // 4
    patterns = []
    for colour, share in zip(opponent, shares, strict=True):
        for u, v in waves[:share]:
            wave = torch.outer(torch.cos(math.pi * v * position / size), torch.cos(math.pi * u * position / size))
            gain = (1 + math.hypot(u, v)) / size**2 * (2.0 if u or v else 1.0)
            patterns.append(gain * colour[:, None, None] * wave)
    return torch.stack(patterns)
