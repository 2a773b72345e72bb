"""Everything mode: grids, crops, thresholds and suppression, on masks that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Segmenter
from etam_edge.errors import InputError
from etam_edge.runtimes import EverythingOptions
from etam_edge.runtimes.everything.generator import generate
from etam_edge.runtimes.everything.grid import Crop, crops, inside, point_grids
from etam_edge.runtimes.everything.selection import cut_off, without_doubles
from etam_edge.runtimes.holes import clean
from etam_edge.runtimes.rle import decode_rle, encode_rle, mask_of_runs, runs_of
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

SIZE = 64
"""Of the made-up model: logits are 16 x 16."""


class Scene:
    """A model that answers a point with the rectangles of a scene that contain it: the smallest one, the largest one,
    and the smallest one with uncertain edges."""

    def __init__(self, shape: tuple[int, int], rectangles: list[tuple[int, int, int, int]]) -> None:
        self.whole, self.rectangles = shape, rectangles
        self.crops = [Crop(0, 0, shape[1], shape[0])]
        self.points: list[int] = []

    def encode(self, crop: np.ndarray) -> None:
        height, width = crop.shape[:2]
        y0, x0 = (int(value) for value in crop[0, 0, :2])
        self.crops.append(Crop(x0, y0, x0 + width, y0 + height))

    def decode(
        self, points: np.ndarray, labels: np.ndarray, mask_logits: np.ndarray | None, multimask: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        crop = self.crops[-1]
        self.points.append(len(points))
        logits, ious = [], []
        for x, y in points[:, 0] / SIZE * crop.shape[::-1] + crop[:2]:
            under = [r for r in self.rectangles if r[0] <= x < r[2] and r[1] <= y < r[3]] or [(0, 0, 0, 0)]
            under.sort(key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
            sharp, large = self.logits(under[0], crop), self.logits(under[-1], crop)
            logits.append([sharp, large, np.clip(sharp, -0.5, 0.5)])
            ious.append([0.95, 0.9, 0.99] if under[0][2] else [0.1, 0.2, 0.3])
        found = np.array(logits, dtype=np.float32), np.array(ious, dtype=np.float32)
        return found if multimask else (found[0][:, :1], found[1][:, :1])

    def logits(self, rectangle: tuple[int, int, int, int], crop: Crop) -> np.ndarray:
        y, x = np.mgrid[0 : SIZE // 4, 0 : SIZE // 4] + 0.5
        x, y = x * 4 / SIZE * crop.shape[1] + crop.x0, y * 4 / SIZE * crop.shape[0] + crop.y0
        x0, y0, x1, y1 = rectangle
        return np.where((x > x0) & (x < x1) & (y > y0) & (y < y1), 20.0, -20.0)


def found_in(scene: Scene, **changes: Any) -> list[Any]:
    y, x = np.mgrid[0 : scene.whole[0], 0 : scene.whole[1]]
    image = np.stack([y, x, x], axis=-1).astype(np.uint8)  # a pixel says where it is
    options = EverythingOptions(points_per_side=8).replace(**changes)
    return generate(scene.encode, scene.decode, SIZE, image, options, None)


def boxes(found: list[Any]) -> set[tuple[int, ...]]:
    return {tuple(round(side / 8) * 8 for side in one.box) for one in found}


TWO = [(8, 8, 40, 40), (64, 72, 120, 120)]


def test_each_object_is_found_once() -> None:
    found = found_in(Scene((128, 128), TWO))
    assert boxes(found) == set(TWO)
    assert len(found) == 2
    for one in found:
        assert one.mask.sum() == one.area
        assert one.box[0] - 2 <= one.point[0] < one.box[2] + 2
        assert one.box[1] - 2 <= one.point[1] < one.box[3] + 2
        assert one.stability_score > 0.95
        assert one.predicted_iou == pytest.approx(0.95)


def test_thresholds_decide() -> None:
    scene = Scene((128, 128), TWO)
    assert found_in(scene, pred_iou_thresh=0.96) == [], "the certain masks have 0.95, the uncertain ones are unstable"
    assert len(found_in(scene, stability_score_thresh=0.0)) == 2
    assert [one.predicted_iou for one in found_in(scene, stability_score_thresh=0.0)] == pytest.approx([0.99] * 2)
    assert len(found_in(scene, box_nms_thresh=1.0)) > 2


def test_the_three_options_for_robots() -> None:
    scene = Scene((128, 128), [*TWO, (0, 0, 128, 128)])
    assert (0, 0, 128, 128) in boxes(found_in(scene))
    assert boxes(found_in(scene, max_area=0.5)) == set(TWO)
    assert len(found_in(scene, top_k=1)) == 1
    scene.points.clear()
    assert boxes(found_in(scene, region=(0, 0, 64, 64), max_area=0.5)) == {TWO[0]}
    assert sum(scene.points) == 16
    mask = np.zeros((128, 128), dtype=bool)
    mask[64:, 64:] = True
    assert boxes(found_in(scene, region=mask, max_area=0.5)) == {TWO[1]}
    with pytest.raises(InputError, match=r"`region` is a mask of shape \(4, 4\) and the image is \(128, 128\)"):
        found_in(scene, region=np.ones((4, 4), dtype=bool))
    with pytest.raises(InputError, match="`region` is neither a box"):
        found_in(scene, region=(9, 9, 3, 3))
    assert found_in(scene, region=(300, 300, 400, 400)) == []


def test_crops_add_what_the_image_misses_and_doubles_are_dropped() -> None:
    small = (90, 90, 102, 104)
    scene = Scene((128, 128), [*TWO, small])
    plain = found_in(scene, points_per_side=4)
    assert small not in {one.box for one in plain}
    found = found_in(scene, points_per_side=4, crop_n_layers=1, stability_score_thresh=0.8)
    assert any(abs(np.subtract(one.box, small)).max() <= 3 for one in found)
    assert boxes(found) >= {TWO[0]}
    assert len(scene.crops) == 1 + 4
    assert {one.shape for one in found} == {(128, 128)}


def test_refinement_decodes_every_mask_again() -> None:
    scene = Scene((128, 128), TWO)
    assert boxes(found_in(scene, use_m2m=True)) == set(TWO)
    assert scene.points == [64, 3 * 64]


def test_grids_and_crops_are_those_of_the_reference() -> None:
    (grid,) = point_grids(EverythingOptions(points_per_side=2))
    assert grid.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    options = EverythingOptions(points_per_side=16, crop_n_layers=2, crop_n_points_downscale_factor=2)
    assert [len(one) for one in point_grids(options)] == [256, 64, 16]
    parts = crops((480, 640), 1, 512 / 1500)
    assert parts[0] == (Crop(0, 0, 640, 480), 0)
    # overlap int(0.3413 * 480) = 163: width ceil((163 + 640) / 2) = 402, height ceil((163 + 480) / 2) = 322
    assert [part for part, _ in parts[1:]] == [
        (0, 0, 402, 322),
        (0, 159, 402, 480),
        (239, 0, 640, 322),
        (239, 159, 640, 480),
    ]
    assert len(crops((480, 640), 2, 512 / 1500)) == 1 + 4 + 16
    assert inside(np.array([[1.0, 1.0], [5.0, 9.0]]), (0, 0, 5, 5), (10, 10)).tolist() == [True, False]


def test_suppression_of_boxes() -> None:
    given = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [5, 5, 5, 9]])
    assert without_doubles(given, np.array([0.5, 0.9, 0.7, 0.6]), 0.7).tolist() == [1, 2, 3]
    assert without_doubles(given, np.array([0.5, 0.5, 0.5, 0.5]), 0.95).tolist() == [0, 1, 2, 3]
    assert without_doubles(np.zeros((0, 4)), np.zeros(0), 0.7).tolist() == []
    image, crop = Crop(0, 0, 640, 480), Crop(0, 0, 402, 322)
    assert cut_off((100, 100, 395, 200), crop, image)
    assert not cut_off((0, 0, 300, 300), crop, image), "an edge of the image cuts off nothing"


def test_small_parts_and_holes_are_removed() -> None:
    logits = np.full((12, 12), -5.0, dtype=np.float32)
    logits[2:9, 2:9] = 5.0
    logits[4, 4] = -5.0
    logits[11, 11] = 5.0
    cleaned = clean(logits, 1)
    assert cleaned[4, 4] == 10
    assert cleaned[11, 11] == -10
    assert (cleaned != logits).sum() == 2
    np.testing.assert_array_equal(clean(logits, 0), logits)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 20)])
def test_runs_and_their_text_describe_the_mask(shape: tuple[int, int]) -> None:
    for seed in range(8):
        mask = np.random.default_rng(seed).random(shape) < seed / 7
        np.testing.assert_array_equal(mask_of_runs(runs_of(mask), shape), mask)
        np.testing.assert_array_equal(decode_rle(encode_rle(mask), shape), mask)
        np.testing.assert_array_equal(decode_rle(runs_of(mask).tolist(), shape), mask)
    with pytest.raises(ValueError, match="add up to"):
        decode_rle(encode_rle(mask), (shape[0] + 1, shape[1]))
    with pytest.raises(ValueError, match="is not part of"):
        decode_rle("\x00", shape)
    with pytest.raises(ValueError, match="middle of a number"):
        decode_rle("o", shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points_per_side": 0}, "`points_per_side=0` is not a whole number from 1"),
        ({"points_per_side": None}, "either `points_per_side` or `point_grids`"),
        ({"pred_iou_thresh": 1.5}, "`pred_iou_thresh=1.5` is not a number from 0 to 1"),
        ({"max_area": 0}, "`max_area=0` leaves no mask"),
        ({"points_per_batch": None}, "`points_per_batch=None` is not a whole number"),
        ({"colour": 1}, "everything has no option 'colour'"),
        ({"points_per_side": None, "point_grids": [np.ones((2, 2))]}, "shares from 0 to below 1"),
        ({"points_per_side": None, "point_grids": []}, "`point_grids` has 0 grids"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EverythingOptions().replace(**changes)


def test_the_model_runs_in_batches(small_bundle: SmallBundleMaker) -> None:
    segmenter = Segmenter.load(small_bundle(Pooling.NONE))
    steps: list[tuple[int, int]] = []
    found = segmenter.everything(
        clip_frame(0, 96, 150),
        points_per_side=4,
        points_per_batch=6,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        min_mask_region_area=4,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(6, 16), (12, 16), (16, 16)]
    assert found
    assert all(one.mask.shape == (96, 150) for one in found)
