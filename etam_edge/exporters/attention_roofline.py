"""Which form of memory cross-attention a GPU should be fastest with, by a roofline: until one has been timed.

A roofline takes for each kernel the longer of two times: that of its arithmetic and that of its memory traffic.
docs/tensorrt.md derives the formulas and shows what they give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from etam_edge.bundle.targets import find_target
from etam_edge.errors import InputError
from etam_edge.spec import CrossAttention, GraphSizes, ModelSpec, find_cross_attention

MATRIX_SHARE, BANDWIDTH_SHARE = 0.5, 0.75
"""Shares of the peak rates of matrix units and memory that kernels are assumed to reach."""
KERNEL_SECONDS = 3e-6
"""What a kernel takes beyond its work."""
CACHE_SHARE = 0.5
"""Share of the L2 cache that a tensor may fill and still be there for the next kernel."""
TILE = 64
"""Queries that one multiprocessor works on in fused attention with 256 channels."""
MARGIN = 1.2
"""How many times as fast as WHOLE another form has to be to be chosen: the roofline is no more precise than that."""
HALF = 2
"""Bytes of a float16 number."""
MAX_BLOCKS = 64


@dataclass(frozen=True)
class Gpu:
    """Figures that the manufacturer publishes for a GPU.

    Attributes:
        name: of the GPU or its module.
        matrix_flops: peak of dense float16 products, floating-point operations a second.
        bandwidth: of the memory, bytes a second.
        cache: L2, bytes.
        multiprocessors: number of them.
    """

    name: str
    matrix_flops: float
    bandwidth: float
    cache: int
    multiprocessors: int


GPUS = {
    "a100": (Gpu("A100 40 GB", 312e12, 1555e9, 40 << 20, 108),),
    "jetson-orin": (
        Gpu("AGX Orin 64 GB", 42.5e12, 204.8e9, 4 << 20, 16),
        # The L2 cache of the smaller Orins is not published: half of that of the AGX, as all else is.
        Gpu("Orin NX 16 GB", 15e12, 102.4e9, 2 << 20, 8),
    ),
    "jetson-orin-nano": (Gpu("Orin Nano 8 GB", 10e12, 68e9, 2 << 20, 8),),
    "jetson-thor": (Gpu("AGX Thor", 258e12, 273e9, 32 << 20, 20),),
}
"""GPUs by target."""


@dataclass(frozen=True)
class AttentionForm:
    """A form of cross-attention. Attributes as of `GraphSizes`."""

    cross_attention: CrossAttention
    query_blocks: int = 1


WHOLE, FUSED = AttentionForm(CrossAttention.WHOLE), AttentionForm(CrossAttention.FUSED)


def attention_seconds(gpu: Gpu, form: AttentionForm, spec: ModelSpec, keys: int) -> float:
    """Time of the cross-attentions of all layers for one object and frame in fp16, in seconds.

    Args:
        gpu: what it runs on.
        form: of the attention.
        spec: of the model.
        keys: that every query reads (`GraphSizes.memory_keys`).
    """
    if form.cross_attention is CrossAttention.FUSED:
        return spec.memory_layers * _fused_seconds(gpu, spec, keys) + _widening_seconds(gpu, spec, keys)
    return spec.memory_layers * form.query_blocks * _block_seconds(gpu, spec, keys, spec.tokens // form.query_blocks)


def _block_seconds(gpu: Gpu, spec: ModelSpec, keys: int, queries: int) -> float:
    """One block of queries in three kernels: scores, softmax, product with the values."""
    scores = HALF * queries * keys
    # Scores that fit into the cache cost no memory traffic between the kernels.
    written = 0 if scores <= CACHE_SHARE * gpu.cache else scores
    key_bytes, value_bytes = HALF * keys * spec.width, HALF * keys * spec.memory_width
    return (
        _kernel(gpu, 2 * queries * keys * spec.width, key_bytes + HALF * queries * spec.width + written)
        + _kernel(gpu, 0, 2 * written)
        + _kernel(
            gpu, 2 * queries * keys * spec.memory_width, value_bytes + HALF * queries * spec.memory_width + written
        )
    )


def _fused_seconds(gpu: Gpu, spec: ModelSpec, keys: int) -> float:
    """One kernel. Every tile of queries keeps one multiprocessor busy, and tiles run in waves."""
    tiles = math.ceil(spec.tokens / TILE)
    waves = math.ceil(tiles / gpu.multiprocessors)
    used = tiles / (waves * gpu.multiprocessors)
    operations = 2 * spec.tokens * keys * 2 * spec.width
    # All tiles of a wave walk over keys and values together, so that each wave reads them once.
    moved = waves * 2 * HALF * keys * spec.width + 2 * HALF * spec.tokens * spec.width
    return _kernel(gpu, operations / used, moved)


def _widening_seconds(gpu: Gpu, spec: ModelSpec, keys: int) -> float:
    """Values are widened once a frame, and the result of every layer is cut to their width again."""
    widened = _kernel(gpu, 0, HALF * keys * (spec.memory_width + spec.width))
    return widened + spec.memory_layers * _kernel(gpu, 0, 2 * HALF * spec.tokens * spec.memory_width)


def _kernel(gpu: Gpu, operations: float, moved: float) -> float:
    """Time of one kernel by its arithmetic and the bytes that it moves."""
    arithmetic = operations / (MATRIX_SHARE * gpu.matrix_flops)
    return max(arithmetic, moved / (BANDWIDTH_SHARE * gpu.bandwidth)) + KERNEL_SECONDS


def attention_forms(spec: ModelSpec) -> list[AttentionForm]:
    """Forms to choose from: whole, fused, and blocks in numbers that divide the queries of the model evenly."""
    numbers = (2**power for power in range(1, int(math.log2(MAX_BLOCKS)) + 1))
    blocks = [number for number in numbers if spec.tokens % number == 0 and spec.tokens // number >= TILE]
    return [WHOLE, *(AttentionForm(CrossAttention.BLOCKS, number) for number in blocks), FUSED]


def attention_for(form: str | None, target: str | None, spec: ModelSpec, sizes: GraphSizes) -> AttentionForm:
    """The form of cross-attention for an export.

    Args:
        form: that was asked for, or None for the one that suits the target: the fastest that is `MARGIN` times as fast
            as WHOLE on every GPU of it, or WHOLE.
        target: name of a target, or None. WHOLE suits `this-machine`, whose GPU is not known to the exporter, and no
            target. Where blocks are asked for, their number then suits `jetson-orin`.
        spec: of the model.
        sizes: of the graphs; its own form does not matter.

    Raises:
        InputError: no form or target has this name, or the queries of the model do not divide into blocks.
    """
    if target is not None:
        find_target(target)
    gpus, forms = GPUS.get(target or "", ()), attention_forms(spec)
    if form is not None:
        cross_attention = find_cross_attention(form)
        gpus = gpus or GPUS["jetson-orin"]
        forms = [one for one in forms if one.cross_attention is cross_attention]
        if not forms:
            raise InputError(f"{spec.tokens} queries of {spec.name} do not divide into blocks; use whole or fused")
    elif not gpus:
        return WHOLE
    keys = sizes.memory_keys(spec)

    def gain(one: AttentionForm) -> float:
        """How many times as fast as WHOLE, on the GPU where that is least."""
        return min(attention_seconds(gpu, WHOLE, spec, keys) / attention_seconds(gpu, one, spec, keys) for gpu in gpus)

    best = max(forms, key=gain)
    return best if form is not None or gain(best) >= MARGIN else WHOLE
