"""Resizing agrees with the libraries that the reference uses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from etam_edge.runtimes.resample import resize_bilinear, resize_frame

SHAPES = [
    ((40, 60), (128, 128)),
    ((200, 90), (64, 64)),
    ((32, 32), (75, 41)),
    ((64, 64), (20, 30)),
    ((480, 854), (128, 128)),
]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_bilinear_equals_torch(source: tuple[int, int], target: tuple[int, int], antialias: bool) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).normal(size=(2, *source)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[:, None], size=target, mode="bilinear", align_corners=False, antialias=antialias
    )
    actual = resize_bilinear(image, *target, antialias=antialias)
    np.testing.assert_allclose(actual, expected[:, 0].numpy(), atol=2e-5)
    assert actual.dtype == np.float32


def test_frames_are_resized_as_the_reference_loads_them() -> None:
    frame = np.random.default_rng(1).integers(0, 256, size=(48, 72, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(frame).convert("RGB").resize((128, 128)))
    np.testing.assert_array_equal(resize_frame(frame, 128), expected)


def test_same_size_is_untouched() -> None:
    frame = np.random.default_rng(1).integers(0, 256, size=(128, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frame(frame, 128), frame)
