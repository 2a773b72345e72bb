"""`check --images`: the figures of masks that are known, both kinds of annotations, and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("cv2")

from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.evaluation.images import compare_images, innermost
from etam_edge.media.image_sets import find_images
from etam_edge.runtimes import Prediction, Prompt
from etam_edge.runtimes.rle import encode_rle
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

SHAPE = (96, 150)


def truth() -> dict[int, np.ndarray]:
    masks = {1: np.zeros(SHAPE, bool), 5: np.zeros(SHAPE, bool)}
    masks[1][10:50, 20:60], masks[5][60:90, 90:140] = True, True
    return masks


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two images with label images, one without."""
    root = tmp_path / "set"
    for name in ("images", "instances"):
        (root / name).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(clip_frame(number, *SHAPE)).save(root / "images" / f"{number}.jpg")
    for number in range(2):
        values = sum(np.uint8(value) * mask for value, mask in truth().items())
        Image.fromarray(values).save(root / "instances" / f"{number}.png")
    return root


def write_coco(root: Path) -> Path:
    rectangle = [20, 10, 59, 10, 59, 49, 20, 49]
    rle = {"size": list(SHAPE), "counts": encode_rle(truth()[5])}
    segmentations: list[Any] = [[rectangle], rle, {**rle, "counts": encode_rle(np.zeros(SHAPE, bool))}]
    annotations = [{"id": i, "image_id": 7, "segmentation": s, "iscrowd": 0} for i, s in enumerate(segmentations)]
    annotations.append({"id": 9, "image_id": 7, "segmentation": rle, "iscrowd": 1})
    data = {"images": [{"id": 7, "file_name": "train/1.jpg"}], "annotations": annotations}
    (root / "coco.json").write_text(json.dumps(data))
    return root / "coco.json"


class Answers:
    """A segmenter that answers every prompt with the mask of the object around it, after a change."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def set_image(self, image: np.ndarray) -> None:
        assert image.shape == (*SHAPE, 3)

    def predict_many(self, prompts: Any, multimask: bool = False) -> list[Prediction]:
        found = []
        for prompt in prompts:
            box = prompt.points[0] * 2 if isinstance(prompt, Prompt) else prompt
            assert multimask == isinstance(prompt, Prompt)
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            mask = next(mask for mask in truth().values() if mask[int(y), int(x)])
            found.append(Prediction(self.change(mask)[None], np.ones(1), np.zeros((1, 8, 8))))
        return found


def test_figures_of_known_masks(labelled: Path) -> None:
    def half(mask: np.ndarray) -> np.ndarray:
        return mask & (np.cumsum(mask, axis=1) <= mask.any(axis=0).sum() // 2)

    images = find_images(labelled)
    assert [image.file.name for image in images] == ["0.jpg", "1.jpg"]
    exact = compare_images(Answers(lambda mask: mask), Answers(lambda mask: mask), images)  # type: ignore[arg-type]
    assert (exact.images, len(exact.figures)) == (2, 2 * 2 * 2)
    assert {exact.means(kind).iou for kind in ("click", "box", None)} == {1.0}
    assert exact.means().drop == 0
    lost = compare_images(Answers(half), Answers(lambda mask: mask), images)  # type: ignore[arg-type]
    means = lost.means()
    assert means.iou == pytest.approx(0.5)
    assert means.agreement == pytest.approx(0.5)
    assert means.reference_iou == 1
    assert 0 < means.boundary < 1
    assert means.drop == pytest.approx(50 * (2 - means.iou - means.boundary))
    assert [one.drop for one in lost.worst()] == sorted((one.drop for one in lost.figures), reverse=True)[:5]


def test_both_kinds_of_annotations_give_the_masks(labelled: Path) -> None:
    _, masks = find_images(labelled)[0].read()
    assert set(masks) == {1, 5}
    np.testing.assert_array_equal(masks[5], truth()[5])
    (image,) = find_images(labelled, write_coco(labelled))
    pixels, masks = image.read()
    assert pixels.shape == (*SHAPE, 3)
    assert set(masks) == {1, 2}, "empty objects and groups are left out"
    np.testing.assert_array_equal(masks[1], truth()[1])
    np.testing.assert_array_equal(masks[2], truth()[5])
    assert len(find_images(labelled, max_images=1)) == 1


def test_a_click_is_at_the_innermost_pixel() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:9, 3:10] = True
    assert innermost(mask) == (6.5, 5.5)
    mask[:] = True
    x, y = innermost(mask)
    assert abs(y - 10) <= 1
    assert 9 <= x <= 21


def test_annotations_that_do_not_fit_are_refused(labelled: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(labelled / "instances" / "0.png")
    with pytest.raises(InputError, match=r"0.png is 4 x 4 and its image 150 x 96 pixels"):
        find_images(labelled)[0].read()
    with pytest.raises(InputError, match="there are no images at"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no annotations; name them with `annotations`"):
        find_images(labelled / "images")
    (labelled / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="is not a COCO data set"):
        find_images(labelled, labelled / "bad.json")
    coco = write_coco(labelled)
    coco.write_text(coco.read_text().replace('"size": [96, 150]', '"size": [9, 9]'))
    with pytest.raises(InputError, match=r"1\.jpg: annotation 1 has no usable mask"):
        find_images(labelled, coco)[0].read()


def test_the_command_compares_two_bundles(small_bundle: SmallBundleMaker, labelled: Path, tmp_path: Path) -> None:
    bundle, out = str(small_bundle(Pooling.NONE)), tmp_path / "report"
    command = ["check", bundle, "--reference", bundle, "--images", str(labelled), "--output", str(out)]
    done = CliRunner().invoke(app, [*command, "--min-iou", "0.99"])
    assert done.exit_code == 0, (done.output, done.exception)
    figures = json.loads((out / "check_images.json").read_text())
    assert figures["means"]["all"]["objects"] == 8
    assert figures["means"]["all"]["agreement"] == 1
    assert figures["means"]["all"]["drop"] == pytest.approx(0)
    assert figures["verdict"].startswith("passed: lost 0.00 points")
    assert CliRunner().invoke(app, [*command, "--max-drop", "-1"]).exit_code == 1
    for extra, message in (
        (["--clips", str(labelled)], "give either --clips DIR or --images DIR"),
        (["--max-frames", "3"], "--max-frames belongs to the other kind of check"),
    ):
        assert message in str(CliRunner().invoke(app, [*command, *extra]).exception)
