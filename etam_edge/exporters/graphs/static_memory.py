"""Memory attention as a static subgraph, equal to the plain form except for rounding.

Four algebraic steps, each tested against `etam_edge.model.memory_attention`:

1. Keys are computed once. `RoPE(W_k (m + p + t))` is linear in the time code `t`, and so is pooling. So the key of a
   memory without its time code is computed when the memory is written, and the contribution of the time code is a table
   by layer and age.
2. Values are projected last. With one head and attention rows that sum to one, `A (m W_v + b) W_o = (A m) W_v W_o +
   const`. So attention runs over the raw memory channels, one value bank serves all layers, and the merged matrix is
   applied afterwards.
3. A single memory is attended unpooled, as in the reference. `UnpooledEntryWriter` writes its unpooled keys, including
   the time code, as four slots, so the same graph is used.
4. Slots are data. The age of a slot is an index into the table of time codes, and an empty slot has a large negative
   bias on its scores.

The keys are padded to a multiple of `KEY_MULTIPLE` by empty pointer tokens, whose weight is zero.

Query and key channels are reordered, even channels before odd ones. This does not change their product, and the
rotation works on two contiguous halves.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etam_edge.errors import InputError
from etam_edge.model.efficienttam import EfficientTAM
from etam_edge.model.layers import attend, attention_weights, to_map, to_tokens
from etam_edge.model.memory_attention import (
    LOG_4,
    MemoryAttentionLayer,
    MemoryCrossAttention,
    RotaryAttention,
    pool_tokens,
)
from etam_edge.spec import EMPTY_BIAS, UNPOOLED_SLOTS, CrossAttention, GraphSizes, ModelSpec, Pooling


def halves_order(width: int) -> Tensor:
    """Channel order that puts neighbouring channels (2i, 2i + 1) at (i, i + width / 2), int64 (width,)."""
    return torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))


def rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`position.rotate` for channels in halves order: (..., T, C) to the same, with the tables of `halves_tables`."""
    half = int(x.shape[-1]) // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + swapped * sine


def halves_tables(attention: RotaryAttention) -> tuple[Tensor, Tensor]:
    """Rotation tables for `rotate_halves`, (T, C) each: cosine twice, and sine with the sign of each half."""
    cosine, sine = attention.cosine, attention.sine
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def reordered(linear: nn.Linear, scale: float = 1.0) -> nn.Linear:
    """`linear` with its outputs in halves order, multiplied by `scale`."""
    order = halves_order(linear.out_features)
    result = nn.Linear(linear.in_features, linear.out_features)
    result.weight.data = linear.weight.data[order] * scale
    result.bias.data = linear.bias.data[order] * scale
    return result


class EntryWriter(nn.Module):
    """Raw memory features to the content of a slot: keys for every layer, without time code, and values."""

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
        """Raw memory (B, M, s, s) to keys (B, L, T, C) and values (B, T, M), pooled in pooled models."""
        tokens = to_tokens(memory)
        keys = [self._pool(key) for key in self.keys(tokens + self.position)]
        if self.spec.pooling is Pooling.KEY_BIAS:
            keys = [key + LOG_4 for key in keys]
        return torch.stack(keys, dim=1), self._pool(tokens)

    def keys(self, tokens: Tensor) -> list[Tensor]:
        """Memory tokens (B, T, M), projected and rotated for every layer: L tensors (B, T, C)."""
        return [rotate_halves(project(tokens), self.cosine, self.sine) for project in self.projections]

    def _pool(self, tokens: Tensor) -> Tensor:
        return pool_tokens(tokens, self.spec.grid) if self.spec.pooled else tokens


class UnpooledEntryWriter(nn.Module):
    """Raw memory features to the content of the four slots of a single memory, in pooled models."""

    def __init__(self, writer: EntryWriter) -> None:
        super().__init__()
        self.writer = writer

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Raw memory (B, M, s, s) to keys (B, 4, L, T, C), with the conditioning time code, and values (B, 4, T, M)."""
        spec = self.writer.spec
        tokens = to_tokens(memory)
        parts = [
            key.reshape(-1, UNPOOLED_SLOTS, spec.memory_tokens, spec.width)
            for key in self.writer.keys(tokens + (self.writer.position + self.writer.conditioning_code))
        ]
        values = tokens.reshape(-1, UNPOOLED_SLOTS, spec.memory_tokens, spec.memory_width)
        return torch.stack(parts, dim=2), values


def time_code_table(model: EfficientTAM, attention: MemoryCrossAttention) -> Tensor:
    """The contribution of each time code to a slot's keys, (F + 1, T, C).

    Row i is `pool(RoPE(W_k maskmem_tpos_enc[i]))`: row 0 for the newest frame, row F - 1 for conditioning frames. The
    last row is zero, for slots whose keys contain the time code already.
    """
    spec = model.spec
    order = halves_order(spec.width)
    codes = model.maskmem_tpos_enc.data.reshape(spec.memory_frames, 1, spec.memory_width)
    projected = F.linear(codes, attention.k_proj.weight.data[order]).expand(-1, spec.tokens, -1)
    rotated = rotate_halves(projected, *halves_tables(attention))
    rows = pool_tokens(rotated, spec.grid) if spec.pooled else rotated
    return torch.cat((rows, torch.zeros_like(rows[:1])))


class WeightedValues(nn.Module):
    """The product of attention weights and values. It is a separate module because it is a separate region."""

    def forward(self, weights: Tensor, values: Tensor) -> Tensor:
        """(B, Q, K) and (B, K, M) to (B, Q, M)."""
        return weights @ values


class StaticCrossAttention(nn.Module):
    """Cross-attention of layer `index` to a bank of precomputed keys; values are projected after attention."""

    time_codes: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, model: EfficientTAM, index: int, sizes: GraphSizes) -> None:
        super().__init__()
        spec, attention = model.spec, cross_attentions(model)[index]
        self.index = index
        self.form, self.blocks = sizes.cross_attention, sizes.query_blocks
        if spec.tokens % self.blocks:
            raise InputError(f"{spec.tokens} queries do not divide into `query_blocks={self.blocks}` blocks")
        self.value_width = spec.memory_width
        self.keys_shape = (-1, sizes.slots(spec), spec.memory_tokens, spec.width)
        self.query = reordered(attention.q_proj)
        self.pointer_key = reordered(attention.k_proj)
        self.weighted_values = WeightedValues()
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
            keys: precomputed keys of all layers, (B, slots, L, T, C).
            codes: rows of the time code table, int32 (B, slots).
            pointer_tokens: (B, P, M), padding included.
            values: of all slots and pointer tokens, (B, slots * T + P, M), or (B, slots * T + P, C) in the fused form.
            bias: score bias of all slots and pointer tokens, (B, 1, slots * T + P).

        Returns:
            (B, T, C).
        """
        query = rotate_halves(self.query(x), self.cosine, self.sine)
        coded = keys[:, :, self.index] + F.embedding(codes, self.time_codes).reshape(self.keys_shape)
        slots, tokens, width = self.keys_shape[1:]
        key = torch.cat((coded.reshape(-1, slots * tokens, width), self.pointer_key(pointer_tokens)), dim=1)
        return self.out(self._attend(query, key, values, bias))

    def _attend(self, query: Tensor, key: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries (1 or B, T, C), keys (B, K, C), values (B, K, M or C) and bias (B, 1, K) to (B, T, M)."""
        if self.form is CrossAttention.FUSED:
            # All objects share the queries of the first layer, and TensorRT fuses no attention over a batch axis of
            # one: so the queries are repeated for every object.
            query = query + 0.0 * bias[:, :, :1]
        parts = query.split(int(query.shape[1]) // self.blocks, dim=1) if self.blocks > 1 else (query,)
        found = [self.weighted_values(attention_weights(part, key, bias), values) for part in parts]
        result = torch.cat(found, dim=1) if self.blocks > 1 else found[0]
        return result[..., : self.value_width] if self.form is CrossAttention.FUSED else result


def merged_output(attention: MemoryCrossAttention) -> nn.Linear:
    """`out_proj(v_proj(x))` as one linear layer, multiplied in double precision."""
    value, out = attention.v_proj, attention.out_proj
    merged = nn.Linear(value.in_features, out.out_features)
    weight = out.weight.data.double()
    merged.weight.data = (weight @ value.weight.data.double()).float()
    merged.bias.data = (weight @ value.bias.data.double() + out.bias.data.double()).float()
    return merged


class StaticSelfAttention(nn.Module):
    """Self-attention of memory attention, with query and key channels in halves order."""

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
        """(B, T, C) to (B, T, C)."""
        query = rotate_halves(self.query(x), self.cosine, self.sine)
        key = rotate_halves(self.key(x), self.cosine, self.sine)
        return self.out(attend(query, key, self.value(x)))


class StaticLayer(nn.Module):
    """Layer `index` of memory attention over the bank."""

    def __init__(self, model: EfficientTAM, index: int, sizes: GraphSizes) -> None:
        super().__init__()
        self.plain = attention_layers(model)[index]
        self.self_attention = StaticSelfAttention(self.plain.self_attn)
        self.cross_attention = StaticCrossAttention(model, index, sizes)

    def forward(
        self, x: Tensor, keys: Tensor, codes: Tensor, pointer_tokens: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        """Arguments as of `StaticCrossAttention`."""
        x = x + self.self_attention(self.plain.norm1(x))
        x = x + self.cross_attention(self.plain.norm2(x), keys, codes, pointer_tokens, values, bias)
        return x + self.plain.mlp(x)


class BankValues(nn.Module):
    """Values of the bank in the order of its keys: all slots, all pointer tokens, and zeros as padding."""

    def __init__(self, spec: ModelSpec, sizes: GraphSizes) -> None:
        super().__init__()
        self.slot_rows = sizes.slots(spec) * spec.memory_tokens
        self.pointer_rows = sizes.pointer_slots(spec) * spec.pointer_tokens
        self.padding = sizes.memory_keys(spec) - self.slot_rows - self.pointer_rows
        self.width = spec.memory_width
        self.widening = spec.width - self.width if sizes.cross_attention is CrossAttention.FUSED else 0

    def forward(self, values: Tensor, pointers: Tensor) -> tuple[Tensor, Tensor]:
        """(B, slots, T, M) and (B, P, C) to all values and the pointer tokens.

        Returns:
            values (B, rows, M), or (B, rows, C) with zeros behind them in the fused form; and the pointer tokens with
            their padding (B, rows - slots * T, M).
        """
        pointer_tokens = F.pad(pointers.reshape(-1, self.pointer_rows, self.width), (0, 0, 0, self.padding))
        rows = torch.cat((values.reshape(-1, self.slot_rows, self.width), pointer_tokens), 1)
        return F.pad(rows, (0, self.widening)) if self.widening else rows, pointer_tokens


class BankBias(nn.Module):
    """Score bias of every key: that of its slot or pointer, and that of an empty slot for the padding."""

    def __init__(self, spec: ModelSpec, sizes: GraphSizes) -> None:
        super().__init__()
        self.spec = spec
        rows = sizes.slots(spec) * spec.memory_tokens + sizes.pointer_slots(spec) * spec.pointer_tokens
        self.padding = sizes.memory_keys(spec) - rows

    def forward(self, slot_bias: Tensor, pointer_bias: Tensor) -> Tensor:
        """(B, slots) and (B, P) to (B, 1, rows)."""
        spec = self.spec
        bias = torch.cat(
            (_repeated(slot_bias, spec.memory_tokens), _repeated(pointer_bias, spec.pointer_tokens)), dim=-1
        )
        return F.pad(bias, (0, self.padding), value=EMPTY_BIAS)


class FrameTokens(nn.Module):
    """Image features (1, C, s, s) to tokens (1, T, C), with a tenth of the position encoding added."""

    position: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.register_buffer("position", 0.1 * model.features_position)

    def forward(self, features: Tensor) -> Tensor:
        return to_tokens(features) + self.position


class ConditionedFeatures(nn.Module):
    """The last norm, and tokens (B, T, C) to a feature map (B, C, s, s)."""

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.grid = model.spec.grid
        self.norm = model.memory_attention.norm

    def forward(self, x: Tensor) -> Tensor:
        return to_map(self.norm(x), self.grid)


class StaticMemoryAttention(nn.Module):
    """Memory attention over a fixed number of slots.

    All objects share the frame, so the batch is one until memory is read.
    """

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__()
        self.bank_values = BankValues(model.spec, sizes)
        self.bank_bias = BankBias(model.spec, sizes)
        self.frame_tokens = FrameTokens(model)
        self.layers = nn.ModuleList(StaticLayer(model, index, sizes) for index in range(model.spec.memory_layers))
        self.conditioned = ConditionedFeatures(model)

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
        """
        Args:
            features: (1, C, s, s).
            keys: (B, slots, L, T, C); values: (B, slots, T, M).
            codes: int32 (B, slots); slot_bias: (B, slots).
            pointers: (B, P, C); pointer_bias: (B, P).

        Returns:
            conditioned features, (B, C, s, s).
        """
        all_values, pointer_tokens = self.bank_values(values, pointers)
        bias = self.bank_bias(slot_bias, pointer_bias)
        x = self.frame_tokens(features)
        for layer in self.layers:
            x = layer(x, keys, codes, pointer_tokens, all_values, bias)
        return self.conditioned(x)


def _repeated(bias: Tensor, tokens: int) -> Tensor:
    """(B, n) to (B, 1, n * tokens), each value repeated for its tokens."""
    return (bias[..., None] + bias.new_zeros(tokens)).reshape(-1, 1, int(bias.shape[1]) * tokens)


def attention_layers(model: EfficientTAM) -> list[MemoryAttentionLayer]:
    """The layers of memory attention."""
    return [cast(MemoryAttentionLayer, layer) for layer in model.memory_attention.layers]


def cross_attentions(model: EfficientTAM) -> list[MemoryCrossAttention]:
    """The cross-attention of every layer."""
    return [layer.cross_attn_image for layer in attention_layers(model)]
