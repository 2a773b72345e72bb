"""ModelSpec: every size of every variant. The one source of shapes for the model, the graphs and the runtimes.

The eight official variants are those of the EfficientTAM release (paper: *Efficient Track Anything*, section 4;
sizes as in the release's configuration files). Smaller models of the same family are specs like any other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from etam_edge.errors import InputError


class Pooling(str, Enum):
    """How memory cross-attention coarsens each memory frame (2x2 average of keys and values).

    `score_bias` adds ln 4 to the scores of coarse tokens (Lemma 1 of the paper, variants `_1`);
    `key_bias` adds ln 4 to every element of the coarse keys (variants `_2`). They are different functions.
    """

    NONE = "none"
    SCORE_BIAS = "score_bias"
    KEY_BIAS = "key_bias"


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
                raise InputError(f"model spec '{self.name}': {text}")

        object.__setattr__(self, "pooling", Pooling(self.pooling))
        object.__setattr__(self, "global_blocks", tuple(self.global_blocks))
        require(self.patch_size == 16, f"patch_size must be 16, not {self.patch_size}: the decoder upscales by 16 / 4")
        require(
            self.image_size % 32 == 0 and self.image_size > 0,
            f"image_size must be a positive multiple of 32, not {self.image_size}",
        )
        require(self.vit_width % self.vit_heads == 0, "vit_heads must divide vit_width")
        require(self.width % self.decoder_heads == 0, "decoder_heads must divide width")
        require(self.width % 32 == 0, "width must be a multiple of 32: the decoder narrows it eightfold")
        require(self.width % self.memory_width == 0, "memory_width must divide width")
        require(self.memory_width % 4 == 0, "memory_width must be a multiple of 4: sine and cosine of x and y")
        require(self.memory_frames >= 2, "memory_frames must be at least 2")
        require(
            bool(self.global_blocks) and max(self.global_blocks) == self.vit_depth - 1,
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
        """Tokens that one memory frame holds in the bank: s * s, a quarter of it where pooled."""
        return self.tokens // 4 if self.pooled else self.tokens

    @property
    def pointer_tokens(self) -> int:
        """Memory tokens that one object pointer is split into."""
        return self.width // self.memory_width

    @property
    def recent_frames(self) -> int:
        """Non-conditioning frames whose memory is read: the last 6."""
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
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise InputError(f"model spec has unknown fields {', '.join(unknown)}; it needs a newer etam-edge")
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


@dataclass(frozen=True)
class GraphSizes:
    """The fixed sizes of the graphs beyond the model's own.

    Attributes:
        conditioning_frames: conditioning frames that one object's memory holds, the nearest in time. Upstream keeps
            all; up to this many the graphs are equal to it.
        max_points: points of one prompt; a box takes two.
        frame_size: (height, width) in pixels, in the order of an array's shape, of the camera frames that the graphs
            take and give masks for; None where the host resizes frames and masks, which may then have any size.
        padded_windows: whether ViT windows that the border cuts are filled up to whole ones. They answer the same in
            one attention of whole windows instead of up to four of their sizes: more work in fewer kernels.
    """

    conditioning_frames: int = 2
    max_points: int = 16
    frame_size: tuple[int, int] | None = None
    padded_windows: bool = False

    def __post_init__(self) -> None:
        if self.frame_size is not None:
            size = self.frame_size
            pair = isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size)
            if not pair:
                raise InputError(f"frame_size is {size!r}; give (height, width) in pixels")
            check_frame_size(size)
            # JSON has lists.
            object.__setattr__(self, "frame_size", tuple(size))
        if self.conditioning_frames < 1:
            raise InputError(f"conditioning_frames must be at least 1, not {self.conditioning_frames}")
        if self.max_points < 2:
            raise InputError(f"max_points must be at least 2, the corners of a box, not {self.max_points}")

    def slots(self, spec: ModelSpec) -> int:
        """Memory slots of one object: conditioning frames and the last 6 others."""
        slots = self.conditioning_frames + spec.recent_frames
        # A lone memory stands unpooled in four slots, beside its pooled form.
        return max(slots, UNPOOLED_SLOTS + 1) if spec.pooled else slots

    def pointer_slots(self, spec: ModelSpec) -> int:
        """Object pointers of one object: of conditioning frames and of the last 15 others."""
        return self.conditioning_frames + spec.max_object_pointers - 1

    def check_frame_shape(self, shape: tuple[int, int], where: str, bundle: str) -> None:
        """Refuse frames of another (H, W) than the graphs take. Graphs without a frame size take any.

        Args:
            where: the frames come from, or which one it is: the sentence begins with it.
            bundle: whose sizes these are, for the sentence.

        Raises:
            InputError: the size is another one.
        """
        if self.frame_size is not None and tuple(shape) != self.frame_size:
            (height, width), (wanted_height, wanted_width) = shape, self.frame_size
            raise InputError(
                f"{where} is {width} x {height} pixels and {bundle} takes frames of {wanted_width} x {wanted_height} "
                f"alone; give such frames, or export with --frame-size {width}x{height}, or without it for any size"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. What is not said is the default: manifests from before it was there are like new ones."""
        fields = dataclasses.asdict(self)
        size, padded = fields.pop("frame_size"), fields.pop("padded_windows")
        return {
            **fields,
            **({} if size is None else {"frame_size": list(size)}),
            **({"padded_windows": True} if padded else {}),
        }


SMALLEST_FRAME, LARGEST_FRAME = 16, 8192
"""Pixels of a frame's side; what lies outside is a mistake in typing."""


def check_frame_size(size: tuple[int, int]) -> None:
    """
    Raises:
        InputError: no camera has frames of this (height, width).
    """
    height, width = size
    if not all(SMALLEST_FRAME <= side <= LARGEST_FRAME for side in size):
        raise InputError(
            f"frames of {width} x {height} pixels are no camera's; "
            f"use {SMALLEST_FRAME} to {LARGEST_FRAME} pixels a side"
        )


UNPOOLED_SLOTS = 4
"""Slots that one memory takes before 2x2 pooling."""
EMPTY_BIAS = -3.0e4
"""Score of a slot that holds nothing: finite in half precision, and its softmax weight is exactly zero."""
EMPTY_POINT = -2
"""Label of a point slot that holds nothing. (-1 is SAM's padding point, which takes part in attention.)"""
MASK_SOURCE_NONE, MASK_SOURCE_LOGITS, MASK_SOURCE_MASK = 0, 1, 2
"""Where `prompt` takes its mask from: nowhere, earlier mask logits, or a mask given by the user."""
