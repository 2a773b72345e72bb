"""ModelSpec: every size of every variant, from which the model, the graphs and the runtimes derive all shapes.

The eight official variants are those of the EfficientTAM release (paper: *Efficient Track Anything*, section 4;
sizes as in the configuration files of the release). Smaller models of the same family are specs as well.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from etam_edge.errors import InputError, shown


class Pooling(str, Enum):
    """How memory cross-attention pools each memory frame (2x2 average of keys and values).

    `score_bias` adds ln 4 to the scores of pooled tokens (Lemma 1 of the paper, variants `_1`);
    `key_bias` adds ln 4 to every element of the pooled keys (variants `_2`). They are different functions.
    """

    NONE = "none"
    SCORE_BIAS = "score_bias"
    KEY_BIAS = "key_bias"


def _is_count(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


MOST = {
    "image_size": 4096,
    "vit_width": 8192,
    "vit_heads": 256,
    "vit_depth": 256,
    "vit_mlp_ratio": 64,
    "patch_size": 256,
    "window_size": 1024,
    "position_grid": 1024,
    "width": 8192,
    "memory_width": 8192,
    "memory_layers": 256,
    "memory_mlp_width": 1 << 20,
    "memory_frames": 256,
    "max_object_pointers": 1024,
    "fuser_layers": 256,
    "decoder_depth": 256,
    "decoder_heads": 256,
    "decoder_mlp_width": 1 << 20,
}
"""Largest value of each count of a model. More is taken for damage: a single number in a manifest must not make a
program allocate without end. `GraphSizes` has such bounds as well."""


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of one model. Lengths are in pixels, tokens or channels as named; all counts are positive."""

    name: str
    image_size: int
    vit_width: int
    vit_heads: int
    pooling: Pooling = Pooling.NONE
    vit_depth: int = 12
    vit_mlp_ratio: int = 4
    patch_size: int = 16
    window_size: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    position_grid: int = 14
    width: int = 256
    memory_width: int = 64
    memory_layers: int = 4
    memory_mlp_width: int = 2048
    memory_frames: int = 7
    max_object_pointers: int = 16
    fuser_layers: int = 2
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048

    def __post_init__(self) -> None:
        def require(condition: bool, text: str) -> None:
            if not condition:
                raise InputError(f"model spec {shown(self.name)}: {text}")

        require(isinstance(self.name, str) and 0 < len(self.name) <= 200, "its name must be a text")
        require(
            self.pooling in tuple(Pooling), f"pooling must be one of {', '.join(Pooling)}, not {shown(self.pooling)}"
        )
        for name, most in MOST.items():
            value = getattr(self, name)
            require(_is_count(value, 1, most), f"{name} must be a whole number from 1 to {most}, not {shown(value)}")
        blocks = self.global_blocks
        require(
            isinstance(blocks, list | tuple) and all(_is_count(block, 0, self.vit_depth - 1) for block in blocks),
            f"global_blocks must be numbers of ViT blocks, not {shown(blocks)}",
        )
        object.__setattr__(self, "pooling", Pooling(self.pooling))
        object.__setattr__(self, "global_blocks", tuple(blocks))
        require(self.patch_size == 16, f"patch_size must be 16, not {self.patch_size}: the decoder upscales by 16 / 4")
        require(
            self.image_size % 32 == 0,
            f"image_size must be a positive multiple of 32, not {self.image_size}",
        )
        require(self.vit_width % self.vit_heads == 0, "vit_heads must divide vit_width")
        require(self.width % self.decoder_heads == 0, "decoder_heads must divide width")
        require(self.width % 32 == 0, "width must be a multiple of 32: the decoder narrows it eightfold")
        require(self.width % self.memory_width == 0, "memory_width must divide width")
        require(self.memory_width % 4 == 0, "memory_width must be a multiple of 4: sine and cosine of x and y")
        require(self.memory_frames >= 2, "memory_frames must be at least 2")
        require(
            bool(blocks) and max(blocks) == self.vit_depth - 1 and len(set(blocks)) == len(blocks),
            "the last ViT block must be a global one",
        )

    @property
    def grid(self) -> int:
        """Tokens along one side of the feature map: s = S / 16."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits: S / 4."""
        return 4 * self.grid

    @property
    def tokens(self) -> int:
        """Tokens of one frame: s * s."""
        return self.grid * self.grid

    @property
    def pooled(self) -> bool:
        return self.pooling is not Pooling.NONE

    @property
    def memory_tokens(self) -> int:
        """Tokens of one memory frame in the bank: s * s, or a quarter of it if pooled."""
        return self.tokens // 4 if self.pooled else self.tokens

    @property
    def pointer_tokens(self) -> int:
        """Memory tokens of one object pointer."""
        return self.width // self.memory_width

    @property
    def recent_frames(self) -> int:
        """Number of non-conditioning frames whose memory is read: the last 6."""
        return self.memory_frames - 1

    def replace(self, **changes: Any) -> ModelSpec:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {**fields, "pooling": self.pooling.value, "global_blocks": list(self.global_blocks)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelSpec:
        """The spec that `to_dict` wrote.

        Raises:
            InputError: a field is unknown, missing or out of range.
        """
        if not isinstance(fields, dict):
            raise InputError(f"model spec is {shown(fields)}, not an object")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            names = ", ".join(name if name.isidentifier() else shown(name) for name in unknown[:5])
            raise InputError(f"model spec has unknown fields {names}; it needs a newer etam-edge")
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise InputError(f"model spec cannot be read: {error}") from error


def _official() -> dict[str, ModelSpec]:
    sizes = {"s": {"vit_width": 384, "vit_heads": 6}, "ti": {"vit_width": 192, "vit_heads": 3}}
    forms = {
        "": {"image_size": 1024},
        "_512x512": {"image_size": 512},
        "_1": {"image_size": 1024, "pooling": Pooling.SCORE_BIAS},
        "_2": {"image_size": 1024, "pooling": Pooling.KEY_BIAS},
    }
    specs = [
        ModelSpec(name=f"efficienttam_{size}{suffix}", **widths, **form)  # type: ignore[arg-type]
        for size, widths in sizes.items()
        for suffix, form in forms.items()
    ]
    return {spec.name: spec for spec in specs}


OFFICIAL: dict[str, ModelSpec] = _official()
"""The eight official variants by name."""


NANO = ModelSpec(
    name="etam_nano",
    image_size=256,
    vit_width=192,
    vit_heads=3,
    pooling=Pooling.SCORE_BIAS,
    vit_depth=4,
    window_size=8,
    global_blocks=(1, 3),
    position_grid=16,
    width=128,
    memory_layers=2,
    memory_mlp_width=512,
    decoder_heads=4,
    decoder_mlp_width=512,
)
"""The small model whose trained weights are part of this package."""

MODELS: dict[str, ModelSpec] = {NANO.name: NANO, **OFFICIAL}
"""All named models."""


def find_spec(name: str) -> ModelSpec:
    """The spec of a named model.

    Raises:
        InputError: no model has this name.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise InputError(f"no model is named '{name}'; known models: {', '.join(MODELS)}") from None


class CrossAttention(str, Enum):
    """How the graph `track` computes the cross-attention of memory. The result is the same to rounding error.

    Members:
        WHOLE: the scores of all queries as one tensor.
        BLOCKS: the same for one block of queries after another, so that the scores of a block stay in a cache.
        FUSED: values widened to the width of the keys, which TensorRT compiles to one kernel that writes no scores.
    """

    WHOLE = "whole"
    BLOCKS = "blocks"
    FUSED = "fused"


def find_cross_attention(name: str) -> CrossAttention:
    """
    Raises:
        InputError: no form has this name.
    """
    try:
        return CrossAttention(name)
    except ValueError:
        known = ", ".join(form.value for form in CrossAttention)
        raise InputError(f"`cross_attention={name}` is not known; use {known}") from None


KEY_MULTIPLE = 64
"""The number of keys of cross-attention is padded to a multiple of this: rows of scores that do not begin at a multiple
of 16 bytes keep GPUs from their fastest matrix products, and 64 keys are a tile of one."""


@dataclass(frozen=True)
class GraphSizes:
    """The fixed sizes of the graphs beyond the model's own.

    Attributes:
        conditioning_frames: number of conditioning frames in one object's memory, the nearest in time. The reference
            keeps all; up to this number the graphs are equal to it.
        max_points: number of points in one prompt; a box takes two.
        frame_size: (height, width) in pixels of the camera frames that `encode` reads and of the masks that `track`
            writes. None if the host resizes frames and masks, which may then have any size.
        padded_windows: whether ViT windows at the border of the frame are padded to whole windows. The outputs are the
            same; padding does more arithmetic in one attention per block instead of up to four.
        cross_attention: how `track` computes the cross-attention of memory.
        query_blocks: number of blocks that CrossAttention.BLOCKS splits the queries into; 1 for the other forms.
    """

    conditioning_frames: int = 2
    max_points: int = 16
    frame_size: tuple[int, int] | None = None
    padded_windows: bool = False
    cross_attention: CrossAttention = CrossAttention.WHOLE
    query_blocks: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "cross_attention", find_cross_attention(self.cross_attention))
        if (self.query_blocks > 1) != (self.cross_attention is CrossAttention.BLOCKS):
            raise InputError(
                f"query_blocks of {self.query_blocks} does not fit cross_attention={self.cross_attention.value}; "
                "`blocks` needs 2 or more, the other forms have 1"
            )
        if self.frame_size is not None:
            size = self.frame_size
            pair = isinstance(size, tuple | list) and len(size) == 2 and all(type(side) is int for side in size)
            if not pair:
                raise InputError(f"frame_size is {shown(size)}; give (height, width) in pixels")
            check_frame_size((size[0], size[1]))
            # JSON stores tuples as lists.
            object.__setattr__(self, "frame_size", tuple(size))
        counts = (
            ("conditioning_frames", self.conditioning_frames, 1, MAX_CONDITIONING_FRAMES, ""),
            ("max_points", self.max_points, 2, MAX_POINTS, ", the corners of a box,"),
        )
        for name, value, least, most, why in counts:
            if not _is_count(value, least, most):
                raise InputError(f"{name} must be at least {least}{why} and at most {most}, not {shown(value)}")
        if not isinstance(self.padded_windows, bool):
            raise InputError(f"padded_windows must be true or false, not {shown(self.padded_windows)}")

    def slots(self, spec: ModelSpec) -> int:
        """Memory slots of one object: conditioning frames and the last 6 other frames."""
        slots = self.conditioning_frames + spec.recent_frames
        # A single memory is stored unpooled in four slots, and pooled in one more.
        return max(slots, UNPOOLED_SLOTS + 1) if spec.pooled else slots

    def pointer_slots(self, spec: ModelSpec) -> int:
        """Pointer slots of one object: conditioning frames and the last 15 other frames."""
        return self.conditioning_frames + spec.max_object_pointers - 1

    def memory_keys(self, spec: ModelSpec) -> int:
        """Keys that a query of cross-attention reads: tokens of all slots and pointers, padded to `KEY_MULTIPLE`."""
        keys = self.slots(spec) * spec.memory_tokens + self.pointer_slots(spec) * spec.pointer_tokens
        return math.ceil(keys / KEY_MULTIPLE) * KEY_MULTIPLE

    def check_frame_shape(self, shape: tuple[int, int], where: str, bundle: str) -> None:
        """Refuse frames of another size than the graphs read. Graphs without a frame size accept any size.

        Args:
            shape: (height, width) of the frames.
            where: the frame or its source; the error message begins with it.
            bundle: path of the bundle, for the error message.

        Raises:
            InputError: the size is another one.
        """
        if self.frame_size is not None and tuple(shape) != self.frame_size:
            (height, width), (wanted_height, wanted_width) = shape, self.frame_size
            raise InputError(
                f"{where} is {width} x {height} pixels, but {bundle} takes only frames of {wanted_width} x "
                f"{wanted_height}; give such frames, or export again with: etam-edge export "
                f"--frame-size {width}x{height} (without it, frames of any size are taken)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The sizes as the manifest stores them. Newer fields are left out while they have their default."""
        fields = dataclasses.asdict(self)
        size, padded = fields.pop("frame_size"), fields.pop("padded_windows")
        form, blocks = fields.pop("cross_attention"), fields.pop("query_blocks")
        return {
            **fields,
            **({} if size is None else {"frame_size": list(size)}),
            **({"padded_windows": True} if padded else {}),
            **({} if form is CrossAttention.WHOLE else {"cross_attention": form.value}),
            **({"query_blocks": blocks} if blocks > 1 else {}),
        }


MIN_FRAME_SIDE, MAX_FRAME_SIDE = 16, 8192
"""Pixels. A frame size outside is assumed to be a typing mistake."""


MAX_CONDITIONING_FRAMES, MAX_POINTS = 1024, 1024
"""Of one object's memory, and of one prompt."""


def check_frame_size(size: tuple[int, int]) -> None:
    """Refuse a frame size, (height, width), that no camera has.

    Raises:
        InputError: a side is out of range.
    """
    height, width = size
    if not all(MIN_FRAME_SIDE <= side <= MAX_FRAME_SIDE for side in size):
        raise InputError(
            f"a frame size of {shown(width)} x {shown(height)} pixels is out of range; "
            f"use {MIN_FRAME_SIDE} to {MAX_FRAME_SIDE} pixels a side"
        )


MASK_TOKENS = 4
"""Masks that the decoder computes for each prompt: the single one, and three alternatives."""
UNPOOLED_SLOTS = 4
"""Slots that one unpooled memory takes in the bank of a pooled model."""
EMPTY_BIAS = -3.0e4
"""Score bias of an empty slot. It is finite in float16, and the softmax weight is exactly zero."""
EMPTY_POINT = -2
"""Label of an empty point slot. (-1 is SAM's padding point, which takes part in attention.)"""
MASK_SOURCE_NONE, MASK_SOURCE_LOGITS, MASK_SOURCE_MASK = 0, 1, 2
"""Mask input of `prompt`: none, earlier mask logits, or a mask given by the user."""
