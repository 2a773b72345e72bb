"""J and F: by definition on small masks, and the official evaluation's figures on real predictions where they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.evaluation.metrics import boundary, boundary_measure, evaluated_mean, region_similarity

pytest.importorskip("cv2")

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""DAVIS annotations may not be redistributed: the comparison runs where they lie beside the clone."""


def square(low: int, high: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[low:high, low:high] = True
    return mask


def blob(seed: int, size: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    angle = np.arctan2(y - size / 2, x - size / 2)
    radius = size * (0.25 + 0.1 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(7 * angle + rng.uniform(0, 6)))
    return (y - size / 2) ** 2 + (x - size / 2 + rng.uniform(-4, 4)) ** 2 < radius**2


def test_region_similarity_is_overlap_over_union() -> None:
    assert region_similarity(square(10, 20), square(10, 20)) == 1
    assert region_similarity(square(10, 20), square(15, 25)) == pytest.approx(25 / 175)
    assert region_similarity(square(0, 0), square(0, 0)) == 1
    assert region_similarity(square(0, 0), square(1, 5)) == 0


def test_boundary_is_where_the_mask_changes_to_the_right_or_below() -> None:
    edge = boundary(square(10, 20))
    assert edge[9, 9]
    assert edge[19, 19]
    assert edge[9, 15]
    assert not edge[20].any()
    assert not edge[12:18, 12:18].any()


@pytest.mark.parametrize("seed", range(6))
def test_boundary_measure_by_definition(seed: int) -> None:
    """Every boundary pixel is matched by hand: within the tolerance of some pixel of the other boundary."""
    mask, truth = blob(seed), blob(seed + 100)
    radius = math.ceil(0.03 * math.hypot(*mask.shape))
    ours, theirs = np.argwhere(boundary(mask)), np.argwhere(boundary(truth))
    near = ((ours[:, None] - theirs[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    expected = 2 * precision * recall / (precision + recall)
    assert 0.2 < expected < 1
    assert boundary_measure(mask, truth, 0.03) == pytest.approx(expected, abs=1e-12)


def test_boundary_measure_of_empty_masks() -> None:
    assert boundary_measure(square(0, 0), square(0, 0)) == 1
    assert boundary_measure(square(0, 0), square(5, 9)) == 0
    assert boundary_measure(square(5, 9), square(0, 0)) == 0


def test_first_and_last_frames_do_not_count() -> None:
    assert evaluated_mean([1.0, 0.4, 0.6, 0.0]) == 0.5
    with pytest.raises(InputError, match="give a longer one"):
        evaluated_mean([1.0, 0.5])


def test_masks_of_different_sizes_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        region_similarity(square(1, 2), square(1, 2, size=30))
    with pytest.raises(InputError, match="cannot be compared"):
        boundary_measure(square(1, 2), square(1, 2, size=30))


@pytest.mark.skipif(not (SHARED / "metric_reference").exists(), reason="needs DAVIS annotations beside the clone")
@pytest.mark.parametrize("sequence", ["car-shadow", "libby", "blackswan", "kite-surf"])
def test_figures_of_the_official_evaluation(sequence: str) -> None:
    expected = json.loads((SHARED / "metric_reference" / "expected.json").read_text())[sequence]
    for frame, (region, edge) in enumerate(zip(expected["J"], expected["F"], strict=True)):
        mask, truth = (
            np.asarray(Image.open(SHARED / folder / sequence / f"{frame:05d}.png")) > 0
            for folder in ("metric_reference/predictions", "davis/Annotations/480p")
        )
        assert region_similarity(mask, truth) == pytest.approx(region, abs=1e-6)
        assert boundary_measure(mask, truth) == pytest.approx(edge, abs=1e-6)
