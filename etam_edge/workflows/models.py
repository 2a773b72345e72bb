"""The models that can be exported: sizes, pooling, parameters, and where the checkpoint is."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from etam_edge.spec import MODELS, ModelSpec

SUGGESTED = "efficienttam_ti_512x512"
"""The official variant with the least computation, which next commands suggest."""


def missing_packages() -> list[str]:
    """Packages that exporting needs and that are not installed; none of them is imported."""
    needed = {"PyTorch": "torch", "onnx": "onnx", "onnxslim": "onnxslim", "onnx-ir": "onnx_ir"}
    return [name for name, module in needed.items() if find_spec(module) is None]


def list_models() -> list[dict[str, Any]]:
    """Facts of every model, as of `describe`."""
    return [describe(spec) for spec in MODELS.values()]


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Facts of a model, ready for JSON.

    Returns:
        `name`, `image_size` (pixels), `pooling`, `parameters` (number of weights), and `checkpoint` (path of the
        file on this machine, or None).
    """
    from etam_edge.exporters.checkpoints import cached_checkpoint

    path = cached_checkpoint(spec.name)
    return {
        "name": spec.name,
        "image_size": spec.image_size,
        "pooling": spec.pooling.value,
        "parameters": parameter_count(spec),
        "checkpoint": str(path) if path is not None else None,
    }


def parameter_count(spec: ModelSpec) -> int:
    """Numbers in the state dict of a spec's model, by arithmetic alone: no torch is needed to list models."""
    width, memory_width = spec.width, spec.memory_width
    embeddings = spec.memory_frames * memory_width + 3 * width
    mask_downsample = _convolution(1, 1, 4)
    return (
        _image_encoder(spec)
        + _memory_attention(spec)
        + _memory_encoder(spec)
        + _prompt_encoder(spec)
        + _mask_decoder(spec)
        + _mlp(width, width, width, width)
        + embeddings
        + mask_downsample
    )


def _image_encoder(spec: ModelSpec) -> int:
    vit, width = spec.vit_width, spec.width
    attention = _linear(vit, 3 * vit) + _linear(vit, vit)
    block = 2 * _norm(vit) + attention + _mlp(vit, spec.vit_mlp_ratio * vit, vit)
    patches = _convolution(3, vit, spec.patch_size) + (spec.position_grid**2 + 1) * vit
    # The neck's two convolutions have no bias.
    neck = vit * width + 9 * width * width + 2 * _norm(width)
    return patches + spec.vit_depth * block + neck


def _memory_attention(spec: ModelSpec) -> int:
    width = spec.width
    attention = _attention(width, width, width) + _attention(width, width, spec.memory_width)
    layer = attention + _mlp(width, spec.memory_mlp_width, width) + 3 * _norm(width)
    return spec.memory_layers * layer + _norm(width)


def _memory_encoder(spec: ModelSpec) -> int:
    width = spec.width
    channels = (1, 4, 16, 64, 256)
    downsampler = sum(_convolution(n_in, n_out, 3) + _norm(n_out) for n_in, n_out in pairwise(channels))
    scale = width
    fuser = _convolution(1, width, 7) + _norm(width) + _mlp(width, 4 * width, width) + scale
    projections = _linear(channels[-1], width) + _linear(width, width) + _linear(width, spec.memory_width)
    return downsampler + spec.fuser_layers * fuser + projections


def _prompt_encoder(spec: ModelSpec) -> int:
    width = spec.width
    gaussian_matrix = width
    # Four point labels, "not a point", "no mask".
    embeddings = 6 * width
    mask = _convolution(1, 4, 2) + _norm(4) + _convolution(4, 16, 2) + _norm(16) + _linear(16, width)
    return gaussian_matrix + embeddings + mask


def _mask_decoder(spec: ModelSpec) -> int:
    width, masks = spec.width, 4
    half = _attention(width, width // 2, width)
    layer = _attention(width, width, width) + 2 * half + _mlp(width, spec.decoder_mlp_width, width) + 4 * _norm(width)
    transformer = spec.decoder_depth * layer + half + _norm(width)
    tokens = (masks + 2) * width
    upscaling = _convolution(width, width // 4, 2) + _norm(width // 4) + _convolution(width // 4, width // 8, 2)
    heads = (
        masks * _mlp(width, width, width, width // 8) + _mlp(width, width, width, masks) + _mlp(width, width, width, 1)
    )
    return transformer + tokens + upscaling + heads


def _linear(n_in: int, n_out: int) -> int:
    return (n_in + 1) * n_out


def _mlp(*widths: int) -> int:
    return sum(_linear(n_in, n_out) for n_in, n_out in pairwise(widths))


def _convolution(n_in: int, n_out: int, side: int) -> int:
    return (n_in * side * side + 1) * n_out


def _norm(channels: int) -> int:
    return 2 * channels


def _attention(width: int, inner: int, memory_width: int) -> int:
    """Projections of queries, keys, values and the result."""
    return _linear(width, inner) + 2 * _linear(memory_width, inner) + _linear(inner, width)
