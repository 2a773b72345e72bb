"""`FrameResult`: rows by object, boxes, areas, and what other tools read."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import etam_edge
from etam_edge import FrameResult, Prompt
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.runtimes.rle import encode_rle
from etam_edge.runtimes.types import mask_box

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def result() -> FrameResult:
    """Object 7 with a rectangle, object 3 not visible."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 10:30, 20:55] = True
    return FrameResult(
        frame_index=4,
        object_ids=(7, 3),
        masks=masks,
        mask_logits=np.stack([np.full((8, 8), 5, np.float32), np.full((8, 8), -1024, np.float32)]),
        object_scores=np.array([6.5, -3.25], dtype=np.float32),
        ious=np.array([0.9375, 0.25], dtype=np.float32),
        mask_choices=np.array([2, 1], dtype=np.int32),
    )


def test_rows_are_found_by_object(result: FrameResult) -> None:
    assert len(result) == 2
    assert list(result) == [7, 3]
    assert 3 in result
    assert 0 not in result
    seen, hidden = result[7], result[3]
    assert (seen.object_id, seen.score, seen.iou, seen.visible, seen.area) == (7, 6.5, 0.9375, True, 20 * 35)
    assert np.shares_memory(seen.mask, result.masks)
    np.testing.assert_array_equal(seen.logits, result.mask_logits[0])
    np.testing.assert_array_equal(seen.box, [20, 10, 55, 30])
    assert (hidden.visible, hidden.area, hidden.box.tolist()) == (False, 0, [0, 0, 0, 0])
    with pytest.raises(KeyError, match=r"object 0 is not in the result of frame 4 \(objects: 7, 3\)"):
        result[0]


def test_visible_boxes_and_areas(result: FrameResult) -> None:
    assert result.visible.tolist() == [True, False]
    assert (result.boxes.dtype, result.boxes.tolist()) == (np.float32, [[20, 10, 55, 30], [0, 0, 0, 0]])
    assert result.areas.tolist() == [700, 0]


def test_results_without_objects_have_empty_arrays() -> None:
    none = np.zeros(0, dtype=np.float32)
    empty = FrameResult(0, (), np.zeros((0, 4, 5), bool), np.zeros((0, 1, 1), np.float32), none, none, none)
    assert (len(empty), empty.boxes.shape, empty.areas.shape, empty.visible.shape) == (0, (0, 4), (0,), (0,))
    assert empty.to_coco() == []


def test_box_encloses_every_pixel_and_no_more() -> None:
    random = np.random.default_rng(5)
    for _ in range(50):
        mask = random.random((random.integers(1, 12), random.integers(1, 12))) < 0.1
        x0, y0, x1, y1 = mask_box(mask)
        rows, columns = np.nonzero(mask)
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
        assert (x0, y0, x1, y1) == expected


def test_texts_are_short(result: FrameResult) -> None:
    assert repr(result) == (
        "FrameResult(frame_index=4, masks=bool (2, 40, 60), "
        "objects={7: score 6.50, iou 0.94, 3: score -3.25, iou 0.25})"
    )
    assert repr(result[7]) == "ObjectResult(object_id=7, score=6.50, iou=0.94, area=700)"
    assert repr(Prompt(mask=result.masks[0])) == "Prompt(mask=bool (40, 60))"
    assert repr(Prompt(points=[(1, 2)], labels=[1])) == "Prompt(points=[(1, 2)], labels=[1])"


# --- COCO ---


def decode_rle(counts: str, height: int, width: int) -> np.ndarray:
    """The mask of compressed counts, decoded as the COCO API describes its string form."""
    numbers: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            code = ord(counts[position]) - 48
            value |= (code & 0x1F) << shift
            more, shift, position = bool(code & 0x20), shift + 5, position + 1
            if not more and code & 0x10:
                value -= 1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
    flat = np.concatenate([np.full(number, index % 2 == 1) for index, number in enumerate(numbers)])
    return flat.reshape(height, width, order="F")


def masks_to_encode() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    masks = [random.random((37, 53)) < share for share in (0, 0.02, 0.5, 0.98, 1)]
    # Runs beyond 32 and 1024 pixels take two and three characters.
    large = np.zeros((300, 400), dtype=bool)
    large[:, 100:350] = True
    large[150, 200] = False
    return [*masks, large, ~large, np.ones((1, 1), dtype=bool), np.zeros((5, 1), dtype=bool)]


def test_run_lengths_decode_to_the_mask() -> None:
    for mask in masks_to_encode():
        np.testing.assert_array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)


def test_known_encodings() -> None:
    """Strings that pycocotools 2.0 writes for these masks."""
    square = np.zeros((4, 6), dtype=bool)
    square[1:3, 2:5] = True
    assert encode_rle(square) == "9220003"
    assert encode_rle(np.ones((4, 6), dtype=bool)) == "0h0"
    assert encode_rle(np.zeros((4, 6), dtype=bool)) == "h0"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools with NumPy 2
def test_pycocotools_reads_and_writes_the_same() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks_to_encode():
        counts = encode_rle(mask)
        np.testing.assert_array_equal(coco.decode({"size": list(mask.shape), "counts": counts.encode()}), mask)
        assert coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode() == counts


def test_coco_results_are_json(result: FrameResult) -> None:
    seen, hidden = json.loads(json.dumps(result.to_coco(image_id=12, category_id=2)))
    counts = seen["segmentation"].pop("counts")
    assert seen == {
        "image_id": 12,
        "category_id": 2,
        "segmentation": {"size": [HEIGHT, WIDTH]},
        "bbox": [20, 10, 35, 20],
        "area": 700,
        "iscrowd": 0,
        "score": 0.9375,
        "object_id": 7,
        "object_score": 6.5,
    }
    np.testing.assert_array_equal(decode_rle(counts, HEIGHT, WIDTH), result.masks[0])
    assert (hidden["area"], hidden["bbox"], hidden["object_score"]) == (0, [0, 0, 0, 0], -3.25)
    assert result.to_coco()[0]["image_id"] == 4


# --- supervision ---


def test_detections_for_supervision(result: FrameResult, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Detections:
        def __init__(self, **fields: Any) -> None:
            given.update(fields)

    package = ModuleType("supervision")
    package.Detections = Detections  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)
    assert isinstance(result.to_supervision(), Detections)
    np.testing.assert_array_equal(given["xyxy"], result.boxes)
    np.testing.assert_array_equal(given["mask"], result.masks)
    np.testing.assert_array_equal(given["confidence"], result.ious)
    np.testing.assert_array_equal(given["data"]["object_score"], result.object_scores)
    assert (given["tracker_id"].dtype, given["tracker_id"].tolist()) == (np.int64, [7, 3])


def test_without_supervision_the_install_line_is_named(result: FrameResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(RuntimeUnavailableError, match="pip install supervision"):
        result.to_supervision()


# --- pictures ---


def test_overlay_colours_masks_and_leaves_the_frame_alone(result: FrameResult) -> None:
    pytest.importorskip("cv2")
    from PIL import Image

    frame = np.full((HEIGHT, WIDTH, 3), 100, dtype=np.uint8)
    picture = etam_edge.overlay(frame, result)
    assert (picture.dtype, picture.shape) == (np.uint8, frame.shape)
    assert (frame == 100).all()
    assert (picture[20, 22] != 100).any()
    assert (picture[36, 5] == 100).all()
    np.testing.assert_array_equal(etam_edge.overlay(Image.fromarray(frame), result), picture)
    with pytest.raises(InputError, match="20 x 10 pixels and the result's masks are 60 x 40"):
        etam_edge.overlay(frame[:10, :20], result)


def test_without_opencv_overlay_names_what_to_install(result: FrameResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RuntimeUnavailableError, match=r'overlay needs OpenCV.*pip install "etam-edge\[video\]"'):
        etam_edge.overlay(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8), result)
