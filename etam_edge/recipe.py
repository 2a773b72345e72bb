"""The recipe: a precision for every region of the model. Graphs, engines and reports use the same regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from etam_edge.errors import InputError, shown

FP32, FP16, INT8 = "fp32", "fp16", "int8"
PRECISIONS = (FP32, FP16, INT8)
TF32 = "tf32"
"""float32 whose products a GPU computes with factors rounded to 11 significant bits. A bundle stores it as fp32."""
MIXED = "mixed"
"""int8 in regions that were chosen by measurement."""

REGIONS = {
    "patch_embedding": "the projection of pixels to tokens",
    "vit_windowed": "linear layers of the ViT blocks whose attention stays inside windows",
    "vit_global": "linear layers of the ViT blocks whose attention is global",
    "vit_attention": "attention products of all ViT blocks",
    "neck": "the convolutions after the ViT",
    "memory_layers": "linear layers of memory attention",
    "memory_self": "self-attention products of memory attention",
    "memory_scores": "query-key product of memory cross-attention",
    "memory_values": "attention times values of memory cross-attention",
    "mask_decoder": "prompt encoder, mask decoder and object pointers",
    "memory_encoder": "the convolutions that encode a mask as memory",
    "memory_keys": "the projections from memory to attention keys",
}
"""Every region, with a description."""

MULTIPLICATIONS = ("Conv", "MatMul", "Gemm")
"""Operators that can be int8. Gemm is included because simplification fuses MatMul and Add to it; otherwise those
multiplications would stay float unnoticed. ConvTranspose is not: TensorRT and ONNX Runtime gain nothing from it."""
MAX_FLOAT16 = 65504.0
"""The largest finite float16 number."""
PRODUCTS = frozenset({"vit_attention", "memory_self", "memory_scores", "memory_values"})
"""Regions that multiply activations by activations."""
INT8_REGIONS = ("vit_windowed", "vit_global", "memory_layers", "memory_keys")
"""Regions that `int8` quantizes by default: the linear layers, which lose the least accuracy for the time they gain."""
CPU_INT8_REGIONS = ("memory_scores",)
"""Regions that `int8` and `mixed` add if everything else is fp32, which is for CPUs: the largest product of a frame,
four times as fast in int8."""
CANDIDATES = tuple(name for name in REGIONS if name not in PRODUCTS | {"patch_embedding", "mask_decoder"})
"""Regions that `mixed` chooses from: all that multiply by weights, except the first and the last of the model."""
TF32_REGIONS = ("mask_decoder",)
"""Regions that can be TF32. TensorRT has one switch for a whole graph, so no other region may be fp32 then."""
FLOAT32_REGIONS = ("mask_decoder",)
"""Regions that are fp32 by default: fp16 in the mask decoder costs several times as much accuracy as anywhere else."""


@dataclass(frozen=True)
class Recipe:
    """A precision for every region.

    Attributes:
        regions: precision by region; regions that are left out get `float_precision`. In an int8 region the
            multiplications are int8, and the operations between them have `float_precision`.
        float_precision: "fp32" or "fp16".
        scales: type of the scales of int8 MatMul nodes, "fp32" or "fp16". With "fp16" the graphs need opset 19, and
            TensorRT 10 or later.

    Raises:
        InputError: a region or a precision is not known, or precisions do not go together.
    """

    regions: Mapping[str, str]
    float_precision: str = FP16
    scales: str = FP32

    def __post_init__(self) -> None:
        for name, precision in self.regions.items():
            if name not in REGIONS:
                raise InputError(f"no region is named {shown(name)}; regions: {', '.join(REGIONS)}")
            if precision not in (*PRECISIONS, TF32):
                raise InputError(f"region {name} cannot be {shown(precision)}; use {', '.join(PRECISIONS)}")
            if precision == TF32 and name not in TF32_REGIONS:
                raise InputError(f"region {name} cannot be tf32; only {', '.join(TF32_REGIONS)} can")
        if self.float_precision not in (FP32, FP16):
            raise InputError(f"float_precision cannot be {shown(self.float_precision)}; use fp32 or fp16")
        if self.scales not in (FP32, FP16):
            raise InputError(f"scales cannot be {shown(self.scales)}; use fp32 or fp16")
        if self.scales == FP16 and self.float_precision != FP16:
            raise InputError("fp16 scales need fp16 around them; leave out `float_precision`, or the fp16 scales")
        object.__setattr__(self, "regions", {name: self.regions.get(name, self.float_precision) for name in REGIONS})
        exact = [name for name in REGIONS if self.regions[name] != TF32 and self.float_type(name) == FP32]
        if TF32 in self.regions.values() and exact:
            raise InputError(
                f"{', '.join(TF32_REGIONS)} cannot be tf32 beside {exact[0]} in fp32, since TensorRT has one switch "
                "for a whole graph; use fp16 or int8 elsewhere"
            )

    @classmethod
    def uniform(cls, precision: str) -> Recipe:
        """The recipe with every region in "fp32" or "fp16"."""
        return cls({}, float_precision=precision)

    @classmethod
    def default(cls, precision: str, float_precision: str = FP16) -> Recipe:
        """The default recipe of "fp32", "fp16", "int8" or "mixed". docs/precision.md explains how they were chosen.

        Args:
            precision: the precision that regions get which profit from it. For "mixed" all CANDIDATES are int8.
            float_precision: for "int8" and "mixed", the precision of everything that is not int8.

        Raises:
            InputError: a precision is not known.
        """
        if precision not in (*PRECISIONS, MIXED):
            raise InputError(f"`precision={precision}` is not known; use {', '.join(PRECISIONS)} or {MIXED}")
        kept = dict.fromkeys(FLOAT32_REGIONS, FP32)
        if precision in (INT8, MIXED):
            regions = INT8_REGIONS if precision == INT8 else CANDIDATES
            if float_precision == FP32:
                regions += CPU_INT8_REGIONS
            return cls({**dict.fromkeys(regions, INT8), **kept}, float_precision)
        return cls(kept, precision)

    def with_regions(self, overrides: Mapping[str, str]) -> Recipe:
        """The recipe with other precisions for some regions."""
        return dataclasses.replace(self, regions={**self.regions, **overrides})

    def with_scales(self, scales: str) -> Recipe:
        """The recipe with scales of another type."""
        return dataclasses.replace(self, scales=scales)

    @property
    def tf32(self) -> bool:
        """Whether a region is TF32."""
        return TF32 in self.regions.values()

    def float_type(self, region: str) -> str:
        """The type of operations of a region that are not int8: "fp32" or "fp16"."""
        precision = self.regions[region]
        return {INT8: self.float_precision, TF32: FP32}.get(precision, precision)

    @property
    def int8_regions(self) -> tuple[str, ...]:
        """Names of the regions in int8."""
        return tuple(name for name, precision in self.regions.items() if precision == INT8)

    @property
    def precision(self) -> str:
        """The narrowest precision of any region: "int8", "fp16" or "fp32"."""
        present = set(self.regions.values())
        return INT8 if INT8 in present else FP16 if FP16 in present else FP32

    def to_dict(self) -> dict[str, Any]:
        """The recipe as the manifest stores it. The key "rest" is that of the first version of the format."""
        scales = {} if self.scales == FP32 else {"scales": self.scales}
        return {"regions": dict(self.regions), "rest": self.float_precision, **scales}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote.

        Raises:
            InputError: a region or precision is not known.
            KeyError: a part is missing.
        """
        if not isinstance(fields, dict) or not isinstance(fields["regions"], dict):
            raise InputError(f"the recipe is {shown(fields)}, not an object with regions")
        return cls(fields["regions"], fields["rest"], fields.get("scales", FP32))


def parse_regions(texts: Iterable[str]) -> dict[str, str]:
    """Overrides from texts of the form `NAME=PRECISION`.

    Raises:
        InputError: a text is not of that form, or a region is given twice. The recipe checks names and precisions.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, precision = (part.strip() for part in text.partition("="))
        if not equals or not name or not precision:
            raise InputError(f"`region={text}` is not of the form NAME=PRECISION, for example mask_decoder=fp32")
        if name in found:
            raise InputError(f"`region={name}` is given twice; keep one of them")
        found[name] = precision
    return found
