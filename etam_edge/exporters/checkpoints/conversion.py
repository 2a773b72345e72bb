"""From the tensors of a checkpoint to a model: the tensors must fit the model, and must be finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.bundle import sha256_of
from etam_edge.errors import CheckpointError
from etam_edge.exporters.checkpoints.catalogue import KNOWN_SHA256
from etam_edge.exporters.checkpoints.reading import read_state_dict, some
from etam_edge.spec import OFFICIAL, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from etam_edge.model import EfficientTAM

FAMILIES = {(384, 12): "an EfficientTAM-S model", (192, 12): "an EfficientTAM-Ti model"}
"""Families of official models by ViT width and depth."""


def load_model(spec: ModelSpec, path: Path) -> EfficientTAM:
    """The model of a checkpoint: float32, in evaluation mode, on the CPU.

    Variants of one size (ti, ti_512x512, ti_1, ti_2) have tensors of the same names and shapes. A file of the wrong one
    of them is detected only if its hash is in `KNOWN_SHA256`.

    Args:
        spec: of the model.
        path: a PyTorch file with a state dict, or a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or a checkpoint of another model; or a tensor
            holds NaN or infinity.
    """
    from etam_edge.model import EfficientTAM

    path = Path(path)
    tensors = read_state_dict(path)
    _check_hash(spec, path)
    _check_family(spec, tensors, path)
    model = EfficientTAM(spec)
    _check_fit(spec, model.state_dict(), tensors, path)
    # The smallest and the largest value take one pass and no copy, and NaN propagates to both.
    broken = [name for name, tensor in tensors.items() if not all(map(math.isfinite, map(float, tensor.aminmax())))]
    if broken:
        raise CheckpointError(
            f"{path} is damaged: {_count(broken, 'tensor')} with NaN or infinite values ({some(broken)}); "
            "download it again, or use the checkpoint of an earlier training step"
        )
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def _check_hash(spec: ModelSpec, path: Path) -> None:
    """Refuse the published file of another variant.

    Raises:
        CheckpointError
    """
    found = sha256_of(path)
    for variant, known in KNOWN_SHA256.items():
        if found == known and variant != spec.name:
            raise CheckpointError(
                f"{path} is the published checkpoint of {variant} (by its sha256), not of {spec.name}; "
                f"use `model={variant}`, or the checkpoint of {spec.name}"
            )


def _check_family(spec: ModelSpec, tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights of another ViT width by the name of their family.

    `_check_fit` would list nearly all tensors.
    """
    patches = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    positions = tensors.get("image_encoder.trunk.pos_embed")
    if patches is None or positions is None or patches.ndim != 4 or positions.ndim != 3:
        return
    width = int(patches.shape[0])
    if width == spec.vit_width or positions.shape[2] != width:
        return
    prefix = "image_encoder.trunk.blocks."
    depth = len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
    family = FAMILIES.get((width, depth), "another model")
    same = [
        name
        for name, other in OFFICIAL.items()
        if (other.vit_width, other.vit_depth, other.image_size, other.pooling)
        == (width, depth, spec.image_size, spec.pooling)
    ]
    remedy = f"use `model={same[0]}`, or another `checkpoint`" if same else "use another `checkpoint`"
    raise CheckpointError(
        f"{path} holds the weights of {family} (ViT width {width}); "
        f"`model={spec.name}` has ViT width {spec.vit_width}; {remedy}"
    )


def _check_fit(spec: ModelSpec, expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Compare every name, shape and type.

    Raises:
        CheckpointError: lists everything that does not fit.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    both = [name for name in expected if name in found]
    shapes = [
        f"{name} is {_shape(found[name])}, expected {_shape(expected[name])}"
        for name in both
        if found[name].shape != expected[name].shape
    ]
    types = [
        f"{name} is {_type(found[name])}, expected {_type(expected[name])}"
        for name in both
        if _type(found[name]) != _type(expected[name])
    ]
    wrong = [
        f"{_count(names, 'tensor')} {fault} ({some(names)})"
        for names, fault in (
            (missing, "missing"),
            (unknown, "unknown"),
            (shapes, "of another shape"),
            (types, "of another type"),
        )
        if names
    ]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit `model={spec.name}`: {'; '.join(wrong)}; "
            "use the `model` that it belongs to, or another `checkpoint`"
        )


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"


def _type(tensor: Tensor) -> str:
    """Name of a type; preceded by the layout or the device if the tensor has no plain values in memory ("meta")."""
    import torch

    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} {kind}"
    return kind if tensor.device.type == "cpu" else f"{tensor.device.type} {kind}"
