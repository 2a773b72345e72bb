"""The recipe: which precision every region of the model has. Graphs, engines and reports speak of the same regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from etam_edge.errors import InputError

FP32, FP16, INT8 = "fp32", "fp16", "int8"
PRECISIONS = (FP32, FP16, INT8)
MIXED = "mixed"
"""Int8 in regions that were chosen by measurement."""

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
    "memory_encoder": "the convolutions that turn a mask into memory",
    "memory_keys": "the projections that turn memory into ready keys",
}
"""Every region, with what it is."""

MULTIPLICATIONS = ("Conv", "MatMul", "Gemm")
"""Operators that int8 can take over. Gemm as well: simplifiers turn MatMul and Add into it, and int8 would vanish
silently. (TensorRT and ONNX Runtime know no int8 ConvTranspose worth having.)"""
LARGEST_HALF = 65504.0
"""The largest finite float16."""
PRODUCTS = frozenset({"vit_attention", "memory_self", "memory_scores", "memory_values"})
"""Regions that multiply activations by activations."""
INT8_REGIONS = ("vit_windowed", "vit_global", "memory_layers", "memory_keys")
"""Regions that `int8` quantizes unless it is told otherwise: linear layers, which lose least for the time they gain."""
CPU_INT8_REGIONS = ("memory_scores",)
"""Regions that `int8` and `mixed` take besides where the rest is fp32, for CPUs: the largest product of a frame, four
times as fast there. A GPU would have to take a fused attention apart for it."""
CANDIDATES = tuple(name for name in REGIONS if name not in PRODUCTS | {"patch_embedding", "mask_decoder"})
"""Regions that `mixed` chooses from: all that multiply by weights, but the first and the last of the model."""
FLOAT32_REGIONS = ("mask_decoder",)
"""Regions that stay fp32 unless told otherwise: fp16 there alone loses several times what it loses elsewhere."""


@dataclass(frozen=True)
class Recipe:
    """A precision for every region.

    Attributes:
        regions: by name. In an int8 region the multiplications are int8, and what stands between them has type `rest`.
        rest: "fp32" or "fp16".
    """

    regions: Mapping[str, str]
    rest: str = FP16

    def __post_init__(self) -> None:
        for name, precision in self.regions.items():
            if name not in REGIONS:
                raise InputError(f"no region is named '{name}'; regions: {', '.join(REGIONS)}")
            if precision not in PRECISIONS:
                raise InputError(f"region {name} cannot be '{precision}'; use {', '.join(PRECISIONS)}")
        if self.rest not in (FP32, FP16):
            raise InputError(f"what is not quantized cannot be '{self.rest}'; use fp32 or fp16")
        object.__setattr__(self, "regions", {name: self.regions.get(name, self.rest) for name in REGIONS})

    @classmethod
    def uniform(cls, precision: str) -> Recipe:
        """Every region "fp32" or "fp16"."""
        return cls({}, rest=precision)

    @classmethod
    def default(cls, precision: str, rest: str = FP16) -> Recipe:
        """The recipe of "fp32", "fp16", "int8" or "mixed"; docs/precision.md says how they were chosen.

        Args:
            precision: of the regions that profit from it. "mixed" has all regions in int8 that it may choose from.
            rest: of what int8 leaves, where it profits.
        """
        kept = dict.fromkeys(FLOAT32_REGIONS, FP32)
        if precision in (INT8, MIXED):
            regions = INT8_REGIONS if precision == INT8 else CANDIDATES
            if rest == FP32:
                regions += CPU_INT8_REGIONS
            return cls({**dict.fromkeys(regions, INT8), **kept}, rest)
        return cls(kept, precision)

    def with_regions(self, overrides: Mapping[str, str]) -> Recipe:
        """The recipe with other precisions for some regions."""
        return Recipe({**self.regions, **overrides}, self.rest)

    def float_type(self, region: str) -> str:
        """ "fp32" or "fp16": the type of what is not quantized in a region."""
        precision = self.regions[region]
        return self.rest if precision == INT8 else precision

    @property
    def int8_regions(self) -> tuple[str, ...]:
        return tuple(name for name, precision in self.regions.items() if precision == INT8)

    @property
    def precision(self) -> str:
        """One word for all of it: "int8" where anything is quantized, else "fp16" where anything is, else "fp32"."""
        present = set(self.regions.values())
        return INT8 if INT8 in present else FP16 if FP16 in present else FP32

    def to_dict(self) -> dict[str, Any]:
        return {"regions": dict(self.regions), "rest": self.rest}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote.

        Raises:
            InputError: a region or precision is not known.
        """
        return cls(fields["regions"], fields["rest"])


def parse_regions(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=PRECISION` texts as overrides.

    Raises:
        InputError: a text is not of that form, or names a region twice. (Names are checked by the recipe.)
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, precision = (part.strip() for part in text.partition("="))
        if not equals or not name or not precision:
            raise InputError(f"--region {text} is not of the form NAME=PRECISION, for example mask_decoder=fp32")
        if name in found:
            raise InputError(f"--region {name} is given twice; keep one of them")
        found[name] = precision
    return found
