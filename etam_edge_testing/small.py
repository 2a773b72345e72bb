"""A small model of 128 x 128 pixels with seeded weights, for tests that need no official model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etam_edge.spec import GraphSizes, ModelSpec, Pooling
from etam_edge_testing.goldens import seeded_weights

if TYPE_CHECKING:
    from etam_edge.model import EfficientTAM

SMALL = ModelSpec(
    name="small",
    image_size=128,
    vit_width=48,
    vit_heads=3,
    vit_depth=3,
    global_blocks=(2,),
    window_size=5,
    width=64,
    memory_width=16,
    memory_layers=2,
    memory_mlp_width=96,
    decoder_mlp_width=96,
)
SIZES = GraphSizes(conditioning_frames=2, max_points=6)
CAMERA = (96, 150)
"""Size (H, W) of camera frames in tests. It is not square, and no multiple of the patch size."""
PREBUILT = os.path.abspath(os.environ["ETAM_EDGE_TEST_BUNDLES"]) if "ETAM_EDGE_TEST_BUNDLES" in os.environ else None
"""A folder that `tests/make_bundles.py` wrote, for interpreters without torch; None if bundles are exported."""


def small_spec(pooling: Pooling) -> ModelSpec:
    """Return the spec of the small model with a kind of pooling."""
    return SMALL.replace(pooling=pooling, name=f"small-{pooling.value}")


def small_model(pooling: Pooling, seed: int = 3) -> EfficientTAM:
    """Return the small model with deterministic weights, in evaluation mode."""
    import torch

    from etam_edge.model import EfficientTAM

    model = EfficientTAM(small_spec(pooling)).eval()
    shapes = {name: {"shape": list(value.shape)} for name, value in model.state_dict().items()}
    weights = seeded_weights().seeded_state_dict(shapes, seed)
    for name in weights:
        # Sharper attention to memory, so that an error in it shows in the outputs.
        if ".cross_attn_image.q_proj." in name:
            weights[name] = weights[name] * np.float32(4)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def export_small(pooling: Pooling, path: Path, sizes: GraphSizes = SIZES) -> Path:
    """Export the small model in fp32 to `path`, and return the path."""
    from etam_edge.exporters.export import export_bundle

    export_bundle(small_model(pooling), path, sizes, {"name": "seeded", "sha256": ""})
    return path


def clip_frame(index: int, height: int = 128, width: int = 128) -> np.ndarray:
    """Return a frame with a bright disc that moves over a still texture, uint8 (height, width, 3) RGB."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    texture = 90 + 40 * np.sin(x / 7) * np.cos(y / 9)
    centre_x = width * (0.5 + 0.25 * np.sin(index / 5))
    centre_y = height * (0.5 + 0.2 * np.cos(index / 7))
    disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (0.18 * min(height, width)) ** 2
    image = np.stack([np.where(disc, 230, texture), np.where(disc, 200, texture), np.where(disc, 60, texture)], axis=-1)
    return image.astype(np.uint8)
