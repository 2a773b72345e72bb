"""`etam-edge segment`: pictures, masks and data sets of single images and folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

pytest.importorskip("cv2")
SIZES = ((96, 150), (128, 128))
ALL = ["--everything", "--points-per-side", "3", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(clip_frame(number, *size)).save(folder / f"{number}.png")
    return folder


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    if isinstance(result.exception, InputError):
        return result
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_everything_in_a_folder_in_every_format(small_bundle: SmallBundleMaker, images: Path, tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    places = {name: tmp_path / name for name in ("output", "masks", "yolo", "labelme")}
    options = [part for name, place in places.items() for part in (f"--{name}", place)]
    lines, data = tmp_path / "lines.jsonl", tmp_path / "set.json"
    bundle = small_bundle(Pooling.NONE)
    result = run(bundle, images, *ALL, *options, "--scores", lines, "--coco", data)
    assert "2 images" in result.output
    coco = coco_module.COCO(str(data))
    assert [image["file_name"] for image in coco.dataset["images"]] == ["0.png", "1.png"]
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for number, (record, size) in enumerate(zip(records, SIZES, strict=True)):
        picture = np.asarray(Image.open(places["output"] / f"{number}.jpg"))
        labels = np.asarray(Image.open(places["masks"] / f"{number}.png"))
        assert (picture.shape, labels.shape) == ((*size, 3), size)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number + 1))
        assert len(annotations) == len(record["objects"]) > 0
        areas = [one["area"] for one in record["objects"]]
        assert areas == sorted(areas, reverse=True), "small masks are on top"
        last = coco.annToMask(annotations[-1]).astype(bool)
        assert (labels[last] == annotations[-1]["track_id"]).all()
        assert set(record["objects"][0]) == {"id", "iou", "area", "box"}
        assert (places["yolo"] / f"{number}.txt").is_file()
        assert json.loads((places["labelme"] / f"{number}.json").read_text())["imagePath"] == f"../images/{number}.png"
    again = run(bundle, images, *ALL, *options)
    assert "is not empty" in str(again.exception) or "holds" in str(again.exception)
    assert run(bundle, images, *ALL, *options, "--overwrite").exit_code == 0


def test_prompts_on_one_image(
    small_bundle: SmallBundleMaker, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle, picture = small_bundle(Pooling.NONE), images / "0.png"
    run(bundle, picture, "--box", "20,20,90,90", "--box", "5,5,60,60", "--scores", "-")
    (line,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert [one["id"] for one in line["objects"]] == [1, 2]
    mask = np.zeros(SIZES[0], np.uint8)
    mask[30:60, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for prompt in (
        ("--point", "40,40"),
        ("--point", "40,40", "--negative-point", "3,3"),
        ("--mask", tmp_path / "mask.png"),
    ):
        place = tmp_path / "-".join(str(part) for part in prompt).replace("/", "_")
        run(bundle, picture, *prompt, "--output", place)
        assert [file.name for file in place.iterdir()] == ["0.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no object was prompted"),
        (["--everything", "--point", "3,3"], "--everything needs no prompt"),
        (["--point", "3,3", "--box", "1,1,5,5", "--box", "1,1,9,9"], "belong to one object"),
        (["--everything", "--region", "1,2"], "--region 1,2 is not X0,Y0,X1,Y1"),
        (["--everything", "--max-area", "2"], "--max-area 2.0 is not a number from 0 to 1"),
        (["--point", "140,3"], "1.png: point (140, 3) of the prompt 0 lies outside"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], message: str, small_bundle: SmallBundleMaker, images: Path, tmp_path: Path
) -> None:
    result = run(small_bundle(Pooling.NONE), images, *arguments, "--output", tmp_path / "out")
    assert message in str(result.exception)


def test_pictures_are_not_written_over_images(small_bundle: SmallBundleMaker, images: Path) -> None:
    result = run(small_bundle(Pooling.NONE), images, "--point", "3,3", "--output", images, "--overwrite")
    assert "would overwrite" in str(result.exception)
    assert sorted(file.name for file in images.iterdir()) == ["0.png", "1.png"]
