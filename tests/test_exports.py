"""Masks in the formats of others: each is read back by the tool that defines it, or as that tool fills polygons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from etam_edge import FrameResult
from etam_edge.errors import InputError
from etam_edge.media.sinks import OutputRequest
from etam_edge.media.sources import ImageFolder, NamedFrame

pytest.importorskip("cv2")
import cv2

from etam_edge.media.polygons import parts_of

HEIGHT, WIDTH = 48, 64
LABELS = {1: "cup", 2: "hand: left"}


def masks() -> dict[int, np.ndarray]:
    """A ring with a second part, a bar that overlaps it, a single pixel, and an empty mask."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ring = ((x - 20) ** 2 + (y - 24) ** 2 < 15**2) & ((x - 22) ** 2 + (y - 22) ** 2 > 6**2)
    ring[40:46, 50:60] = True
    bar, dot = np.zeros_like(ring), np.zeros_like(ring)
    bar[20:30, 10:62] = True
    dot[3, 60] = True
    return {1: ring, 2: bar, 7: dot, 9: np.zeros_like(ring)}


def result(index: int = 0) -> FrameResult:
    found = masks()
    return FrameResult(
        index,
        tuple(found),
        np.stack(list(found.values())),
        np.zeros((4, 0, 0), np.float32),
        np.array([5, 3, 1, -1], np.float32),
        np.array([0.9, 0.8, 0.7, 0.1], np.float32),
        np.zeros(4, np.int32),
    )


def frames() -> list[NamedFrame]:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return [NamedFrame("a", pixels, 0, image="a.png"), NamedFrame("b", pixels, 1)]


def write(request: OutputRequest, source: Path | None = None) -> None:
    request.check(source, [], [1, 2, 7, 9])
    with request.open(None, (HEIGHT, WIDTH), [1, 2, 7, 9], LABELS, source) as outputs:
        for index, frame in enumerate(frames()):
            outputs.write(frame, result(index))


def test_coco_is_what_pycocotools_reads(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    write(OutputRequest(coco=tmp_path / "new" / "set.json"))
    coco = coco_module.COCO(str(tmp_path / "new" / "set.json"))
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["a.png", "b.jpg"]
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "cup", 2: "hand: left", 3: "object"}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert [a["track_id"] for a in annotations] == [1, 2, 7], "an object without a pixel is no annotation"
    for annotation in annotations:
        expected = masks()[annotation["track_id"]]
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), expected)
        x, y, width, height = annotation["bbox"]
        assert expected[int(y) : int(y + height), int(x) : int(x + width)].sum() == annotation["area"] == expected.sum()
    assert annotations[0]["score"] == pytest.approx(0.9)


def test_mots_lines_do_not_overlap(tmp_path: Path) -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    write(OutputRequest(mots=tmp_path / "mots.txt"))
    rows = [line.split(" ") for line in (tmp_path / "mots.txt").read_text().splitlines()]
    assert [(int(frame), int(number), int(kind)) for frame, number, kind, *_ in rows] == [
        (frame, 1000 + number, 1) for frame in (1, 2) for number in (1, 2, 7)
    ]
    decoded = {
        (int(frame), int(number)): mask_module.decode({"size": [int(height), int(width)], "counts": rle.encode()})
        for frame, number, _, height, width, rle in rows
    }
    np.testing.assert_array_equal(decoded[1, 1001], masks()[1])
    np.testing.assert_array_equal(decoded[2, 1002], masks()[2] & ~masks()[1])
    assert sum(decoded[1, 1000 + number] for number in (1, 2, 7)).max() == 1


def test_yolo_labels_are_filled_to_the_masks(tmp_path: Path) -> None:
    write(OutputRequest(yolo=tmp_path / "labels"))
    assert sorted(file.name for file in (tmp_path / "labels").iterdir()) == ["a.txt", "b.txt", "data.yaml"]
    yaml = pytest.importorskip("yaml")
    names = yaml.safe_load((tmp_path / "labels" / "data.yaml").read_text())["names"]
    assert names == {0: "cup", 1: "hand: left", 2: "object"}
    lines = (tmp_path / "labels" / "b.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2]
    for line, object_id in zip(lines, (1, 2, 7), strict=True):
        values = np.array(line.split()[1:], dtype=float)
        assert values.min() >= 0
        assert values.max() < 1
        # As Ultralytics does: shares to pixels, rounded, then cv2.fillPoly.
        polygon = (values.reshape(-1, 2) * (WIDTH, HEIGHT)).round().astype(np.int32)
        filled = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [polygon], 1).astype(bool)
        expected = masks()[object_id]
        # The link between two parts is a line of one pixel.
        assert (filled & expected).sum() == expected.sum()
        assert (filled & ~expected).sum() <= (40 if object_id == 1 else 0)


@pytest.mark.parametrize("beside", [False, True])
def test_labelme_polygons_are_filled_to_the_masks(beside: bool, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(images / "a.png")
    assert next(iter(ImageFolder(images))).image == "a.png"
    folder = images if beside else tmp_path / "labels"
    write(OutputRequest(labelme=folder), images)
    record = json.loads((folder / "a.json").read_text())
    assert (folder / record["imagePath"]).resolve() == (images / "a.png").resolve()
    assert (record["imageHeight"], record["imageWidth"], record["imageData"]) == (HEIGHT, WIDTH, None)
    assert [(shape["label"], shape["group_id"]) for shape in record["shapes"]] == [
        ("cup", 1),
        ("cup", 1),
        ("hand: left", 2),
        ("object", 7),
    ]
    for object_id, expected in masks().items():
        filled = np.zeros((HEIGHT, WIDTH), bool)
        for shape in record["shapes"]:
            if shape["group_id"] == object_id:
                assert shape["shape_type"] == "polygon"
                assert len(shape["points"]) >= 3
                # As `labelme.utils.shape_to_mask` does.
                picture = Image.new("1", (WIDTH, HEIGHT))
                ImageDraw.Draw(picture).polygon(xy=[tuple(p) for p in shape["points"]], outline=1, fill=1)
                filled |= np.asarray(picture)
        assert (filled ^ expected).sum() <= (6 if object_id == 1 else 0), object_id


def test_a_mask_with_many_holes_is_one_polygon_of_its_pixels() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 90), bool)
    mask[5:75, 5:85] = True
    for x, y in rng.integers(10, 70, (12, 2)):
        mask[y : y + 4, x : x + 3] = False
    (part,) = parts_of(cv2, mask)
    filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [part.astype(np.int32)], 1).astype(bool)
    assert (filled & mask).sum() == mask.sum()
    assert (filled ^ mask).sum() <= 0.01 * mask.sum()
    assert parts_of(cv2, np.zeros((4, 4), bool)) == []


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    request = OutputRequest(coco=tmp_path / "c.json", yolo=tmp_path / "y", labelme=tmp_path / "l", mots=tmp_path / "m")
    write(request)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for name, path in (("coco", "c.json"), ("yolo", "y"), ("labelme", "l"), ("mots", "m")):
        with pytest.raises(InputError, match=rf"`{name}=.*`.* add `overwrite=True`"):
            write(OutputRequest(**{name: tmp_path / path}))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    write(OutputRequest(**{**vars(request), "overwrite": True}))
    with pytest.raises(InputError, match="`coco` and `mots` are both"):
        write(OutputRequest(coco=tmp_path / "x", mots=tmp_path / "x"))
