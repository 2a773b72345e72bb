"""Memory attention as a static subgraph, equal to the plain form to rounding error.

Four steps of algebra, each tested against `etam_edge.model.memory_attention`:

1. Keys once. `RoPE(W_k (m + p + t))` is linear in the time code `t`, and so is pooling: the key of a memory without its
   time code is computed when the memory is written, and the code's share is a table by layer and age.
2. Values last. With one head and attention rows that sum to one, `A (m W_v + b) W_o = (A m) W_v W_o + const`: attention
   runs over the raw memory channels, one value bank for all layers, and the merged matrix comes after.
3. A lone memory is attended unpooled by the reference: `UnpooledEntryWriter` writes its full keys, time code included,
   as four slots' worth, and the same graph serves.
4. Slots as data. A slot's age is an index into the table, its presence a bias on its scores.

Query and key channels are reordered (even ones, then odd ones), which leaves their product alone and makes the rotation
two contiguous halves.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.model.layers import attend, to_map, to_tokens
from etam_edge.model.memory_attention import (
    LOG_4,
    MemoryAttentionLayer,
    MemoryCrossAttention,
    RotaryAttention,
    pool_tokens,
)
from etam_edge.spec import UNPOOLED_SLOTS, GraphSizes, ModelSpec, Pooling


def halves_order(width: int) -> Tensor:
    """Channel order that turns neighbouring pairs (2i, 2i + 1) into halves (i, i + width / 2)."""
    return torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))


def rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`position.rotate` for channels in halves order; the tables are (T, C) each, see `halves_tables`."""
    half = int(x.shape[-1]) // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + swapped * sine


def halves_tables(attention: RotaryAttention) -> tuple[Tensor, Tensor]:
    """Rotation tables for `rotate_halves`: cosine twice, and sine with the sign of each half, (T, C) each."""
    cosine, sine = attention.cosine, attention.sine
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def reordered(linear: nn.Linear, scale: float = 1.0) -> nn.Linear:
    """`linear` with its outputs in halves order, times `scale`."""
    order = halves_order(linear.out_features)
    made = nn.Linear(linear.in_features, linear.out_features)
    made.weight.data = linear.weight.data[order] * scale
    made.bias.data = linear.bias.data[order] * scale
    return made


class EntryWriter(nn.Module):
    """Turns raw memory features into what a slot of the bank holds: ready keys for every layer, and values."""

    position: Tensor
    conditioning_code: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.spec = model.spec
        attentions = cross_attentions(model)
        self.projections = nn.ModuleList(reordered(attention.k_proj) for attention in attentions)
        cosine, sine = halves_tables(attentions[0])
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        self.register_buffer("position", model.memory_position)
        self.register_buffer("conditioning_code", model.maskmem_tpos_enc.data[-1])

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Raw memory (B, M, s, s) to keys (B, L, T, C) without time code and values (B, T, M), pooled where pooled."""
        tokens = to_tokens(memory)
        keys = [self._pool(key) for key in self.keys(tokens + self.position)]
        if self.spec.pooling is Pooling.KEY_BIAS:
            keys = [key + LOG_4 for key in keys]
        return torch.stack(keys, dim=1), self._pool(tokens)

    def keys(self, tokens: Tensor) -> list[Tensor]:
        """Projected and rotated, for every layer (B, T, C)."""
        return [rotate_halves(project(tokens), self.cosine, self.sine) for project in self.projections]

    def _pool(self, tokens: Tensor) -> Tensor:
        return pool_tokens(tokens, self.spec.grid) if self.spec.pooled else tokens


class UnpooledEntryWriter(nn.Module):
    """What a lone memory's slots hold, in a model that pools: the reference attends to it unpooled."""

    def __init__(self, writer: EntryWriter) -> None:
        super().__init__()
        self.writer = writer

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Raw memory to keys (B, 4, L, T, C) with the conditioning time code, and values (B, 4, T, M)."""
        spec = self.writer.spec
        tokens = to_tokens(memory)
        parts = [
            key.reshape(-1, UNPOOLED_SLOTS, spec.memory_tokens, spec.width)
            for key in self.writer.keys(tokens + (self.writer.position + self.writer.conditioning_code))
        ]
        values = tokens.reshape(-1, UNPOOLED_SLOTS, spec.memory_tokens, spec.memory_width)
        return torch.stack(parts, dim=2), values


def time_code_table(model: EfficientTAM, attention: MemoryCrossAttention) -> Tensor:
    """The share of each time code in a slot's keys, (F + 1, T, C); the last row is zero, for slots without a code.

    Row i is `pool(RoPE(W_k maskmem_tpos_enc[i]))`: row 0 the newest frame, row F - 1 a conditioning frame.
    """
    spec = model.spec
    order = halves_order(spec.width)
    codes = model.maskmem_tpos_enc.data.reshape(spec.memory_frames, 1, spec.memory_width)
    projected = F.linear(codes, attention.k_proj.weight.data[order]).expand(-1, spec.tokens, -1)
    rotated = rotate_halves(projected, *halves_tables(attention))
    rows = pool_tokens(rotated, spec.grid) if spec.pooled else rotated
    return torch.cat((rows, torch.zeros_like(rows[:1])))


class StaticCrossAttention(nn.Module):
    """Cross-attention to a bank of ready keys, values last."""

    time_codes: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, model: EfficientTAM, attention: MemoryCrossAttention, sizes: GraphSizes) -> None:
        super().__init__()
        spec = model.spec
        self.keys_shape = (-1, sizes.slots(spec), spec.memory_tokens, spec.width)
        self.query = reordered(attention.q_proj)
        self.pointer_key = reordered(attention.k_proj)
        self.out = merged_output(attention)
        cosine, sine = halves_tables(attention)
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        self.register_buffer("time_codes", time_code_table(model, attention).flatten(1))

    def forward(
        self, x: Tensor, keys: Tensor, codes: Tensor, pointer_tokens: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        """
        Args:
            x: queries, (1 or B, T, C).
            keys: this layer's ready keys, (B, slots, T, C).
            codes: rows of the time code table, int32 (B, slots).
            pointer_tokens: (B, P, M).
            values: of all slots and pointer tokens, (B, slots * T + P, M).
            bias: score bias of all slots and pointer tokens, (B, 1, slots * T + P).
        """
        query = rotate_halves(self.query(x), self.cosine, self.sine)
        coded = keys + F.embedding(codes, self.time_codes).reshape(self.keys_shape)
        slots, tokens, width = self.keys_shape[1:]
        key = torch.cat((coded.reshape(-1, slots * tokens, width), self.pointer_key(pointer_tokens)), dim=1)
        return self.out(attend(query, key, values, bias))


def merged_output(attention: MemoryCrossAttention) -> nn.Linear:
    """`out_proj(v_proj(.))` as one linear layer, multiplied out in double precision."""
    value, out = attention.v_proj, attention.out_proj
    merged = nn.Linear(value.in_features, out.out_features)
    weight = out.weight.data.double()
    merged.weight.data = (weight @ value.weight.data.double()).float()
    merged.bias.data = (weight @ value.bias.data.double() + out.bias.data.double()).float()
    return merged


class StaticSelfAttention(nn.Module):
    cosine: Tensor
    sine: Tensor

    def __init__(self, attention: RotaryAttention) -> None:
        super().__init__()
        self.query = reordered(attention.q_proj)
        self.key = reordered(attention.k_proj)
        self.value = attention.v_proj
        self.out = attention.out_proj
        cosine, sine = halves_tables(attention)
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)

    def forward(self, x: Tensor) -> Tensor:
        query = rotate_halves(self.query(x), self.cosine, self.sine)
        key = rotate_halves(self.key(x), self.cosine, self.sine)
        return self.out(attend(query, key, self.value(x)))


class StaticLayer(nn.Module):
    def __init__(self, model: EfficientTAM, layer: MemoryAttentionLayer, sizes: GraphSizes) -> None:
        super().__init__()
        self.plain = layer
        self.self_attention = StaticSelfAttention(layer.self_attn)
        self.cross_attention = StaticCrossAttention(model, layer.cross_attn_image, sizes)

    def forward(
        self, x: Tensor, keys: Tensor, codes: Tensor, pointer_tokens: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        x = x + self.self_attention(self.plain.norm1(x))
        x = x + self.cross_attention(self.plain.norm2(x), keys, codes, pointer_tokens, values, bias)
        return x + self.plain.mlp(x)


class StaticMemoryAttention(nn.Module):
    """Memory attention over fixed slots. Until memory is read all objects share one frame, so a batch of one."""

    features_position: Tensor

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__()
        self.spec: ModelSpec = model.spec
        self.slots = sizes.slots(model.spec)
        self.pointer_slots = sizes.pointer_slots(model.spec)
        self.layers = nn.ModuleList(StaticLayer(model, layer, sizes) for layer in attention_layers(model))
        self.norm = model.memory_attention.norm
        self.register_buffer("features_position", 0.1 * model.features_position)

    def forward(
        self,
        features: Tensor,
        keys: Tensor,
        values: Tensor,
        codes: Tensor,
        slot_bias: Tensor,
        pointers: Tensor,
        pointer_bias: Tensor,
    ) -> Tensor:
        """Conditioned features (B, C, s, s).

        Args:
            features: (1, C, s, s).
            keys: (B, slots, L, T, C); values: (B, slots, T, M).
            codes: int32 (B, slots); slot_bias: (B, slots).
            pointers: (B, P, C); pointer_bias: (B, P).
        """
        spec = self.spec
        pointer_tokens = pointers.reshape(-1, self.pointer_slots * spec.pointer_tokens, spec.memory_width)
        values = torch.cat((values.reshape(-1, self.slots * spec.memory_tokens, spec.memory_width), pointer_tokens), 1)
        bias = torch.cat(
            (self._spread(slot_bias, spec.memory_tokens), self._spread(pointer_bias, spec.pointer_tokens)), dim=-1
        )
        x = to_tokens(features) + self.features_position
        for index, layer in enumerate(self.layers):
            x = layer(x, keys[:, :, index], codes, pointer_tokens, values, bias)
        return to_map(self.norm(x), spec.grid)

    @staticmethod
    def _spread(bias: Tensor, tokens: int) -> Tensor:
        """(B, n) to (B, 1, n * tokens), each value repeated for its tokens."""
        return (bias[..., None] + bias.new_zeros(tokens)).reshape(-1, 1, int(bias.shape[1]) * tokens)


def attention_layers(model: EfficientTAM) -> list[MemoryAttentionLayer]:
    return [cast(MemoryAttentionLayer, layer) for layer in model.memory_attention.layers]


def cross_attentions(model: EfficientTAM) -> list[MemoryCrossAttention]:
    return [layer.cross_attn_image for layer in attention_layers(model)]
