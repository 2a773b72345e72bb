"""`etam-edge track`, driven as a user would drive it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge import Prompt, Session, Tracker
from etam_edge.cli.app import app
from etam_edge.spec import Pooling
from etam_edge_testing.refusals import refused
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

FRAMES = 12
HEIGHT, WIDTH = 96, 151  # an odd width: video codecs want even ones
CLICK = ("--point", "75,60")


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker) -> str:
    return str(small_bundle(Pooling.KEY_BIAS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip as images whose names only sort naturally."""
    path = tmp_path / "clip"
    path.mkdir()
    for index in range(FRAMES):
        Image.fromarray(clip_frame(index, HEIGHT, WIDTH)).save(path / f"frame{index}.png")
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (WIDTH - 1, HEIGHT))
    for index in range(FRAMES):
        writer.write(np.ascontiguousarray(clip_frame(index, HEIGHT, WIDTH - 1)[..., ::-1]))
    writer.release()
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["track", *map(str, arguments)])


def read_video(path: Path) -> tuple[int, tuple[int, int], float]:
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(str(path))
    count = 0
    shape = (0, 0)
    while True:
        found, image = capture.read()
        if not found:
            return count, shape, capture.get(cv2.CAP_PROP_FPS)
        count, shape = count + 1, image.shape[:2]


def test_all_outputs_of_a_folder(bundle: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    out = tmp_path / "out"
    result = run(
        bundle, folder, *CLICK, "--output", out / "v.mp4", "--masks", out / "masks", "--scores", out / "scores.jsonl"
    )
    assert result.exit_code == 0, result.exception
    assert f"{FRAMES} frames, 1 object" in result.output
    assert "onnxruntime (cpu)" in result.output
    assert "next: etam-edge" in result.output
    assert read_video(out / "v.mp4") == (FRAMES, (HEIGHT, WIDTH - 1), 30.0)
    names = [f"frame{index}.png" for index in range(FRAMES)]
    assert sorted(path.name for path in (out / "masks").iterdir()) == sorted(names)
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [Path(name).stem for name in names]
    assert sorted(path.name for path in out.iterdir()) == ["masks", "scores.jsonl", "v.mp4"]

    # What was written is what a session answers.
    session = Tracker.load(bundle).start_session()
    for index, line in enumerate(lines):
        prompts = {1: Prompt(points=[(75, 60)], labels=[1])} if index == 0 else None
        answer = session.track(clip_frame(index, HEIGHT, WIDTH), prompts=prompts)
        image = Image.open(out / "masks" / names[index])
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image) == 1, answer.masks[0])
        [said] = line["objects"]
        assert line["frame_index"] == index
        assert said["id"] == 1
        assert said["area"] == answer.masks[0].sum()
        assert said["object_score"] == pytest.approx(float(answer.object_scores[0]), abs=1e-4)
        assert said["visible"] == bool(answer.object_scores[0] > 0)
        if said["box"]:
            x0, y0, x1, y1 = said["box"]
            assert answer.masks[0][y0:y1, x0:x1].sum() == said["area"]


def test_video_keeps_its_frame_rate(bundle: str, video: Path, tmp_path: Path) -> None:
    result = run(bundle, video, "--box", "20,20,100,80", "--output", tmp_path / "v.mp4", "--max-frames", 7)
    assert result.exit_code == 0, result.exception
    assert read_video(tmp_path / "v.mp4") == (7, (HEIGHT, WIDTH - 1), 10.0)


def test_without_outputs_an_overlay_is_written(
    bundle: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(bundle, video, *CLICK, "--max-frames", 2).exit_code == 0
    assert (tmp_path / "clip_tracked.mp4").exists()


def test_palette_mask_prompts_several_objects(bundle: str, folder: Path, tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[10:50, 10:60], labels[40:90, 80:140] = 3, 7
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 255, 0, 0] + [9] * 762)
    image.save(tmp_path / "mask.png")
    result = run(bundle, folder, "--mask", tmp_path / "mask.png", "--masks", tmp_path / "out", "--max-frames", 3)
    assert result.exit_code == 0, result.exception
    assert "2 objects" in result.output
    first = np.asarray(Image.open(tmp_path / "out" / "frame0.png"))
    assert set(np.unique(first)) == {0, 3, 7}
    assert (first == labels).mean() > 0.97


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_binary_mask_prompts_object_one(mode: str, bundle: str, folder: Path, tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[10:50, 10:60] = 255
    Image.fromarray(labels).convert(mode).save(tmp_path / "mask.png")
    result = run(bundle, folder, "--mask", tmp_path / "mask.png", "--masks", tmp_path / "out", "--max-frames", 1)
    assert result.exit_code == 0, result.exception
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "frame0.png")))) == {0, 1}


def write_prompts(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_prompts_file_speaks_of_objects_frames_and_corrections(bundle: str, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)).save(tmp_path / "mask.png")
    entries = [
        {"frame": 0, "object": 1, "points": [[75, 60], [5, 5]], "labels": [1, 0]},
        {"frame": 3, "object": 2, "box": [10, 10, 60, 60]},
        {"frame": 5, "object": 1, "points": [[20, 20]], "labels": [0], "refine": True},
        {"frame": 6, "object": 4, "mask": "mask.png"},
    ]
    file = write_prompts(tmp_path / "prompts.json", entries)
    result = run(bundle, folder, "--prompts", file, "--scores", tmp_path / "s.jsonl", "--max-frames", 8)
    assert result.exit_code == 0, result.exception
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    ids = [[said["id"] for said in line["objects"]] for line in lines]
    assert ids == [[1]] * 3 + [[1, 2]] * 3 + [[1, 2, 4]] * 2

    session = Tracker.load(bundle).start_session()
    plan = {0: {1: Prompt(points=[(75, 60), (5, 5)], labels=[1, 0])}, 3: {2: Prompt(box=(10, 10, 60, 60))}}
    for index in range(6):
        answer = session.track(clip_frame(index, HEIGHT, WIDTH), prompts=plan.get(index))
    answer = session.refine(1, Prompt(points=[(20, 20)], labels=[0]))
    assert lines[5]["objects"][0]["object_score"] == pytest.approx(float(answer.object_scores[0]), abs=1e-4)
    assert lines[5]["objects"][0]["area"] == answer.masks[0].sum()


# --- wrong input ---


def test_source_that_cannot_be_read_is_refused(bundle: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    refused(run(bundle, tmp_path / "nowhere.mp4", *CLICK), "there is nothing at")
    (tmp_path / "empty").mkdir()
    refused(run(bundle, tmp_path / "empty", *CLICK), "holds no images")
    (tmp_path / "text.mp4").write_text("not a video")
    refused(run(bundle, tmp_path / "text.mp4", *CLICK), "is not a video")
    (tmp_path / "nothing.mp4").touch()
    refused(run(bundle, tmp_path / "nothing.mp4", *CLICK), "is not a video")
    refused(run(bundle, "97", *CLICK), "camera 97 does not open")
    refused(run(bundle, "99999999999999999999", *CLICK), "camera 99999999999999999999 does not open")
    Image.fromarray(clip_frame(0, HEIGHT, WIDTH)).save(tmp_path / "frame_000.png")
    refused(run(bundle, tmp_path / "frame_000.png", *CLICK), "is one image")


def test_without_pyav_and_opencv_a_video_says_what_to_install(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").touch()
    refused(run(bundle, tmp_path / "v.mp4", *CLICK), "need PyAV", 'pip install "etam-edge[video]"')
    monkeypatch.chdir(tmp_path)
    refused(run(bundle, folder, *CLICK), 'pip install "etam-edge[video]"')
    result = run(bundle, folder, *CLICK, "--masks", tmp_path / "masks", "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 0, result.exception


def test_frames_after_the_last_one_wanted_are_not_read(bundle: str, folder: Path, tmp_path: Path) -> None:
    (folder / "frame4.png").write_text("words")
    result = run(bundle, folder, *CLICK, "--max-frames", 4, "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 0, result.exception
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 4


def test_names_in_any_script_are_ordered(tmp_path: Path) -> None:
    from etam_edge.media.sources import open_source

    for name in ("10.png", "9.png", "1²2.png", "b1.JPG", ".hidden.png"):
        Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    source = open_source(str(tmp_path))
    assert [frame.name for frame in source] == ["1²2", "9", "10", "b1"]
    assert (source.length, source.frame_shape) == (4, (4, 6))


@pytest.fixture
def announced_wrongly(tmp_path: Path) -> Any:
    """Makes videos whose header announces another number of frames than there are."""
    cv2 = pytest.importorskip("cv2")

    def make(announced: int) -> Path:
        path = tmp_path / f"announces{announced}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (WIDTH - 1, HEIGHT))
        for index in range(FRAMES):
            writer.write(clip_frame(index, HEIGHT, WIDTH - 1))
        writer.release()
        data = bytearray(path.read_bytes())
        for chunk, offset in ((b"avih", 16), (b"strh", 32)):
            place = data.find(chunk) + 8 + offset
            assert int.from_bytes(data[place : place + 4], "little") == FRAMES
            data[place : place + 4] = announced.to_bytes(4, "little")
        path.write_bytes(data)
        return path

    return make


def test_video_that_announces_too_few_frames_is_read_to_its_end(
    bundle: str, announced_wrongly: Any, tmp_path: Path
) -> None:
    late = [POINT, {**POINT, "frame": 9, "object": 2}]
    file = write_prompts(tmp_path / "p.json", late)
    result = run(bundle, announced_wrongly(5), "--prompts", file, "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 0, result.exception
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [len(line["objects"]) for line in lines] == [1] * 9 + [2] * 3
    file = write_prompts(tmp_path / "p.json", [POINT, {**POINT, "frame": FRAMES}])
    refused(run(bundle, announced_wrongly(5), "--prompts", file), "frames run from 0 to 11")


def test_video_that_is_cut_short_is_said_to_be(bundle: str, announced_wrongly: Any, tmp_path: Path) -> None:
    result = run(bundle, announced_wrongly(40), *CLICK, "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 0, result.exception
    assert f"announces 40 frames and gave {FRAMES}" in result.output
    result = run(bundle, announced_wrongly(40), *CLICK, "--scores", tmp_path / "s.jsonl", "--max-frames", 3)
    assert "the source announces" not in result.output


def test_what_is_read_is_never_overwritten(bundle: str, folder: Path, video: Path, tmp_path: Path) -> None:
    mask = tmp_path / "annotations" / "frame0.png"
    mask.parent.mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)).save(mask)
    file = write_prompts(tmp_path / "p.json", [{"mask": "annotations/frame0.png"}])
    inputs = (video, mask, file, *folder.iterdir())
    before = {path: path.read_bytes() for path in inputs}
    around = folder / ".." / folder.name
    refused(run(bundle, video, *CLICK, "--output", video), "would overwrite")
    refused(run(bundle, folder, *CLICK, "--masks", around), "might overwrite")
    refused(run(bundle, folder, *CLICK, "--scores", folder / "frame3.png"), "would overwrite")
    refused(run(bundle, folder, "--mask", mask, "--masks", mask.parent), "might overwrite")
    refused(run(bundle, folder, "--prompts", file, "--masks", mask.parent), "might overwrite")
    refused(run(bundle, folder, "--prompts", file, "--scores", file), "would overwrite")
    refused(run(bundle, folder, *CLICK, "--output", tmp_path / "a.mp4", "--scores", tmp_path / "a.mp4"), "are both")
    assert {path: path.read_bytes() for path in inputs} == before
    # Beside the source there is room.
    result = run(bundle, video, *CLICK, "--masks", tmp_path / "m", "--scores", folder / "s.jsonl", "--max-frames", 1)
    assert result.exit_code == 0, result.exception


def test_image_that_cannot_be_read_is_named_and_what_came_before_is_kept(
    bundle: str, folder: Path, tmp_path: Path
) -> None:
    whole = (folder / "frame4.png").read_bytes()
    (folder / "frame4.png").write_bytes(whole[: len(whole) // 2])
    result = run(bundle, folder, *CLICK, "--scores", tmp_path / "s.jsonl", "--masks", tmp_path / "masks")
    refused(result, "frame4.png is damaged")
    assert f"kept: 4 frames in {tmp_path / 'masks'}, {tmp_path / 's.jsonl'}" in str(result.exception)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 4
    assert len(list((tmp_path / "masks").iterdir())) == 4
    (folder / "frame0.png").write_text("words")
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "t.jsonl"), "frame0.png is not an image")
    assert not (tmp_path / "t.jsonl").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_frame_of_another_size_is_refused_in_mid_stream(bundle: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    Image.fromarray(clip_frame(3, 50, 50)).save(folder / "frame3.png")
    result = run(bundle, folder, *CLICK, "--output", tmp_path / "v.mp4")
    refused(result, "frame 3 is 50 x 50 pixels and this session's frames are 151 x 96")
    assert read_video(tmp_path / "v.mp4")[0] == 3


def test_names_that_would_share_a_mask_are_refused(bundle: str, folder: Path) -> None:
    Image.fromarray(clip_frame(0, HEIGHT, WIDTH)).save(folder / "frame3.bmp")
    refused(run(bundle, folder, *CLICK), "several images named frame3")


WRONG_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing prompted": ((), "no object was prompted; add --point"),
    "only negative": (("--negative-point", "3,4"), "where the object is not"),
    "one coordinate": (("--point", "3"), "--point 3 is not of the form X,Y"),
    "words": (("--point", "a,b"), "--point a,b is not of the form X,Y"),
    "short box": (("--box", "1,2,3"), "not of the form X0,Y0,X1,Y1"),
    "swapped box": (("--box", "90,80,10,10"), "corners swapped"),
    "outside": (("--point", "151,5"), "outside the frame, which is 151 x 96 pixels"),
    "no mask file": (("--mask", "nowhere.png"), "there is no mask at nowhere.png"),
    "no prompts file": (("--prompts", "nowhere.json"), "there is no prompts file at nowhere.json"),
    "mixed": (("--prompts", "x.json", "--point", "1,2"), "cannot be mixed"),
    "mask and box": (("--mask", "x.png", "--box", "1,2,3,4"), "cannot be mixed"),
    "runtime": (("--point", "75,60", "--runtime", "nonsense"), "runtime 'nonsense' is not known"),
    "not mp4": (("--point", "75,60", "--output", "v.avi"), "is not an .mp4 file"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_option_is_refused(name: str, bundle: str, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    options, sentence = WRONG_OPTIONS[name]
    refused(run(bundle, folder, *options), sentence)
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob(".*partial*"))


def test_masks_that_mark_nothing_are_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)).save(tmp_path / "black.png")
    refused(run(bundle, folder, "--mask", tmp_path / "black.png"), "all of it is black")
    (tmp_path / "words.png").write_text("words")
    refused(run(bundle, folder, "--mask", tmp_path / "words.png"), "is not a mask image")
    Image.fromarray(np.full((20, 20), 255, dtype=np.uint8)).save(tmp_path / "small.png")
    refused(run(bundle, folder, "--mask", tmp_path / "small.png"), "has shape (20, 20) and the frame is (96, 151)")


def test_masks_with_soft_edges_are_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    distance = np.hypot(x - 75, y - 60)
    Image.fromarray((distance < 20).astype(np.uint8) * 255).save(tmp_path / "disc.jpg")
    Image.fromarray((255 - 3 * distance).clip(0, 255).astype(np.uint8)).save(tmp_path / "soft.png")
    for name in ("disc.jpg", "soft.png"):
        refused(run(bundle, folder, "--mask", tmp_path / name), "save it as a PNG of hard edges")


def test_dark_colours_and_sixteen_bits_mark_and_transparency_does_not(tmp_path: Path) -> None:
    from etam_edge.media.prompt_files import read_masks

    inside = np.zeros((8, 9), dtype=bool)
    inside[2:5, 3:7] = True
    blue = np.zeros((8, 9, 3), dtype=np.uint8)
    blue[inside] = (0, 0, 2)
    clear = np.full((8, 9, 4), 255, dtype=np.uint8)
    clear[~inside, 3] = 0
    images = {"rgb": blue, "rgba": clear, "sixteen": inside.astype(np.uint16) * 300, "grey": inside.astype(np.uint8)}
    for name, values in images.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        masks = read_masks(tmp_path / f"{name}.png")
        assert list(masks) == [1], name
        np.testing.assert_array_equal(masks[1], inside, err_msg=name)


POINT = {"points": [[75, 60]], "labels": [1]}
WRONG_PROMPTS: dict[str, tuple[Any, str]] = {
    "no list": ({"frame": 0}, "holds no list of prompts"),
    "empty": ([], "holds no list of prompts"),
    "a number": ([3], "entry 0 is no object"),
    "unknown key": ([{**POINT, "colour": "red"}], "entry 0 has unknown keys colour"),
    "nothing": ([{"frame": 0, "object": 1}], "entry 0 prompts nothing"),
    "frame": ([{**POINT, "frame": -1}], "entry 0: frame is -1"),
    "object": ([{**POINT, "object": "cat"}], "entry 0: object is 'cat'"),
    "refine": ([{**POINT, "refine": 1}], "entry 0: refine is 1"),
    "mask": ([{"mask": 3}], "entry 0: mask is 3"),
    "beyond": ([POINT, {**POINT, "frame": 40, "object": 2}], "a prompt is for frame 40, and frames run from 0 to 11"),
    "twice": ([POINT, POINT], "prompts object 1 twice on frame 0"),
    "too early": ([{**POINT, "frame": 3}, {**POINT, "refine": True}], "corrects object 1 on frame 0 before"),
    "never": ([POINT, {**POINT, "object": 2, "refine": True}], "corrects object 2 on frame 0 before"),
    "labels": ([{"points": [[75, 60]]}], "entry 0: prompt of object 1 has points without labels"),
    "label": ([{**POINT, "labels": [2]}], "entry 0: labels are [2]"),
    "true": ([{**POINT, "labels": [True]}], "entry 0: labels are [True]"),
    "words": ([POINT, {"object": 2, "points": "abc", "labels": [1]}], "entry 1: points are 'abc'"),
    "quoted": ([{**POINT, "points": [["75", "60"]]}], "entry 0: points are"),
    "ragged": ([{"points": [[1, 2], [3]], "labels": [1, 1]}], "entry 0: points are"),
    "nan": ([{**POINT, "points": [[float("nan"), 3]]}], "entry 0: points are"),
    "too long": ([{**POINT, "points": [[10**400, 3]]}], "entry 0: points are"),
    "box": ([POINT, {"frame": 5, "object": 2, "box": [1, 2, 3]}], "entry 1: box is [1, 2, 3]"),
    "later frame": (
        [POINT, {"frame": 5, "object": 2, "points": [[151, 5]], "labels": [1]}],
        "entry 1: point (151, 5) of the prompt of object 2 lies outside the frame",
    ),
    "later box": ([POINT, {"frame": 5, "object": 2, "box": [9, 9, 3, 3]}], "entry 1: box (9, 9, 3, 3)"),
    "later mask": ([POINT, {"frame": 5, "object": 2, "mask": "small.png"}], "entry 1: mask of the prompt of object 2"),
    "other mask": ([{"object": 4, "mask": "two.png"}], "two.png marks objects 3, 7 and not 4"),
    "lost mask": ([POINT, {"object": 2, "mask": "nowhere.png"}], "entry 1: there is no mask at"),
    "mask and box": ([{"mask": "two.png", "object": 3, "box": [1, 2, 3, 4]}], "entry 0: prompt of object 3 has a mask"),
    "id": ([{**POINT, "object": 70_000}], "ids 1 to 65535"),
    "label type": ([{**POINT, "label": ["cup"]}], "entry 0: label is ['cup']; give the object's name as text"),
    "label control": ([{**POINT, "label": "a\x1b[2J"}], "printable characters"),
    "label long": ([{**POINT, "label": "x" * 65}], "1 to 64 printable characters"),
    "two labels": (
        [{**POINT, "label": "cup"}, {**POINT, "frame": 3, "label": "mug"}],
        "entry 1 names object 1 'mug', and an earlier entry 'cup'",
    ),
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_wrong_prompts_file_is_refused(name: str, bundle: str, folder: Path, tmp_path: Path) -> None:
    entries, sentence = WRONG_PROMPTS[name]
    Image.fromarray(np.full((20, 20), 255, dtype=np.uint8)).save(tmp_path / "small.png")
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:50], labels[60:] = 3, 7
    Image.fromarray(labels).save(tmp_path / "two.png")
    file = write_prompts(tmp_path / "p.json", entries)
    result = run(bundle, folder, "--prompts", file, "--masks", tmp_path / "masks")
    refused(result, sentence)
    assert str(file) in str(result.exception) or "ids 1 to 65535" in sentence
    assert not list(tmp_path.glob("masks/*")), "tracking began"


def test_prompts_file_that_is_not_json_is_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[{")
    refused(run(bundle, folder, "--prompts", tmp_path / "p.json"), "is not JSON")
    (tmp_path / "p.json").write_bytes(b"\xff\xfe")
    refused(run(bundle, folder, "--prompts", tmp_path / "p.json"), "cannot be read")
    (tmp_path / "p.json").write_text("[" * 200_000)
    refused(run(bundle, folder, "--prompts", tmp_path / "p.json"), "is not JSON")


def test_prompts_file_with_a_byte_order_mark_is_read(bundle: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([POINT]), encoding="utf-8-sig")
    result = run(bundle, folder, "--prompts", tmp_path / "p.json", "--scores", tmp_path / "s.jsonl", "--max-frames", 1)
    assert result.exit_code == 0, result.exception
    assert "next: etam-edge inspect" in result.output


def test_output_that_cannot_be_written_is_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "file").write_text("x")
    refused(run(bundle, folder, *CLICK, "--output", tmp_path / "file" / "v.mp4"), "--output")
    refused(run(bundle, folder, *CLICK, "--masks", tmp_path / "file"), "--masks")
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "file" / "s.jsonl"), "--scores")
    (tmp_path / "folder.jsonl").mkdir()
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "folder.jsonl"), "is a folder")
    assert (tmp_path / "file").read_text() == "x"
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    refused(run(bundle, folder, *CLICK, "--output", tmp_path / "null.mp4"), "not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_scores_can_be_read_from_a_pipe_and_links_stay(bundle: str, folder: Path, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "scores.jsonl")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(pipe.read_text().splitlines()), daemon=True)
    reader.start()
    assert run(bundle, folder, *CLICK, "--scores", pipe).exit_code == 0
    reader.join(timeout=60)
    assert len(read) == FRAMES
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert run(bundle, folder, *CLICK, "--scores", link).exit_code == 0
    assert link.is_symlink()
    assert (tmp_path / "scores.jsonl").read_text().splitlines() == read


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_full_disk_is_one_sentence(bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etam_edge.media.sinks import request as outputs

    class FullDisk(outputs.ScoreLines):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._file.close()
            self._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115

    monkeypatch.setattr(outputs, "ScoreLines", FullDisk)
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "s.jsonl"), "No space left on device")
    assert not (tmp_path / "s.jsonl").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_output_that_fails_takes_no_other_with_it(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    from etam_edge.media.sinks import request as outputs

    class FullLater:
        def __init__(self, file: Any) -> None:
            self.file, self.lines = file, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, text: str) -> None:
            self.lines += 1
            self.file.write(text if self.lines < 4 else text[:20])
            if self.lines == 4:
                raise OSError(28, "No space left on device")

    class HalfALine(outputs.ScoreLines):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._file: Any = FullLater(self._file)

    video, masks, scores = tmp_path / "v.mp4", tmp_path / "masks", tmp_path / "s.jsonl"
    arguments = (bundle, folder, *CLICK, "--output", video, "--masks", masks, "--scores", scores, "--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "ScoreLines", HalfALine)
        result = run(*arguments)
    refused(
        result, f"s.jsonl could not be written (No space left on device); free space there; kept: 3 frames in {masks}"
    )
    assert not scores.exists(), "half a line is no score"
    assert video.exists()
    video.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
        result = run(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(result, f"{video} could not be written (File too large); name another place; kept: {FRAMES} frames")
    assert not video.exists()
    assert len(scores.read_text().splitlines()) == FRAMES
    assert not list(tmp_path.glob("**/.*partial*"))


def test_interrupted_run_keeps_what_it_has(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    track = Session.track

    def interrupted(session: Session, *arguments: Any, **options: Any) -> Any:
        if session.frame_index == 4:
            raise KeyboardInterrupt
        return track(session, *arguments, **options)

    monkeypatch.setattr(Session, "track", interrupted)
    result = run(bundle, folder, *CLICK, "--output", tmp_path / "v.mp4", "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 130
    assert "interrupted; 5 frames" in result.output
    assert str(tmp_path / "s.jsonl") in result.output
    assert read_video(tmp_path / "v.mp4")[0] == 5
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("moment", ["write", "close"])
def test_interrupt_while_writing_waits_until_the_frame_is_everywhere(
    moment: str, bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    from etam_edge.media.sinks import request as outputs

    original = getattr(outputs.OverlayVideo, moment)
    calls = []

    def pressed(video: Any, *arguments: Any) -> None:
        calls.append(moment)
        if moment == "close" or len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        original(video, *arguments)

    monkeypatch.setattr(outputs.OverlayVideo, moment, pressed)
    before = signal.getsignal(signal.SIGINT)
    result = run(bundle, folder, *CLICK, "--output", tmp_path / "v.mp4", "--scores", tmp_path / "s.jsonl")
    assert signal.getsignal(signal.SIGINT) is before
    assert result.exit_code == 130
    frames = 5 if moment == "write" else FRAMES
    assert f"interrupted; {frames} frames" in result.output
    assert read_video(tmp_path / "v.mp4")[0] == frames
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == frames


def test_interrupt_before_the_first_frame_leaves_nothing(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "track", interrupted)
    out = tmp_path / "out"
    result = run(bundle, folder, *CLICK, "--output", out / "v.mp4", "--scores", out / "s.jsonl")
    assert result.exit_code == 130
    assert "interrupted; 0 frames" in result.output
    assert not out.exists()


def test_frames_without_any_object_in_sight_are_counted(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    track = Session.track

    def hidden(session: Session, *arguments: Any, **options: Any) -> Any:
        result = track(session, *arguments, **options)
        score = np.float32(-3 if session.frame_index in (2, 3, 7) else 3)
        return replace(result, object_scores=np.full_like(result.object_scores, score))

    monkeypatch.setattr(Session, "track", hidden)
    late = write_prompts(tmp_path / "p.json", [{**POINT, "frame": 3}])
    result = run(bundle, folder, *CLICK, "--scores", tmp_path / "s.jsonl")
    assert "none visible on 3 frames" in result.output
    visible = [json.loads(line)["objects"][0]["visible"] for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [index for index, seen in enumerate(visible) if not seen] == [2, 3, 7]
    # Frames before the first prompt have no object that could be invisible.
    result = run(bundle, folder, "--prompts", late, "--scores", tmp_path / "t.jsonl")
    assert "none visible on 2 frames" in result.output
    # Nor are they tracked: a rate over all frames would be too high.
    assert re.search(r"12 frames, 1 object, [\d.]+ frames/s on 9 frames with objects, none", result.output)


def test_overlay_colours_the_mask_and_nothing_far_from_it() -> None:
    cv2 = pytest.importorskip("cv2")
    from etam_edge.media.overlay import FILL, colour, draw_masks

    pixels = np.full((200, 300, 3), 100, dtype=np.uint8)
    masks = np.zeros((3, 200, 300), dtype=bool)
    masks[0, 20:100, 30:130] = True
    masks[1, 120:180, 200:290] = True  # the third is empty: not visible
    drawn = draw_masks(cv2, pixels, (1, 2, 9), masks)
    for object_id, place in ((1, (30, 40)), (2, (130, 210))):
        wanted = (1 - FILL) * 100 + FILL * colour(object_id)
        np.testing.assert_allclose(drawn[place], wanted, atol=1)
    assert (drawn[:10] == 100).all()
    assert (drawn[190:] == 100).all()
    assert (pixels == 100).all(), "the frame itself was painted"
    assert len({tuple(colour(number)) for number in range(1, 255)}) == 254


def test_damaged_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    refused(run(tmp_path / "nowhere", folder, *CLICK), "there is no bundle at")


def test_overlap_goes_to_the_higher_score(tmp_path: Path) -> None:
    from etam_edge.media.sinks import MaskFolder
    from etam_edge.media.sources import NamedFrame
    from etam_edge.runtimes.types import FrameResult

    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, :, :3], masks[1, :, 2:] = True, True
    for scores, owner in (([2.0, 1.0], 5), ([1.0, 2.0], 6), ([1.0, 1.0], 6)):
        result = FrameResult(0, (5, 6), masks, masks.astype(np.float32), np.array(scores), np.ones(2), np.zeros(2, int))
        MaskFolder(tmp_path, (5, 6), overwrite=True).write(NamedFrame("a", np.zeros((4, 4, 3), dtype=np.uint8)), result)
        labels = np.asarray(Image.open(tmp_path / "a.png"))
        assert labels[0].tolist() == [5, 5, owner, 6]


def test_palette_is_that_of_davis() -> None:
    from etam_edge.media.overlay import PALETTE

    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        255: (224, 224, 192),
    }
    assert {value: tuple(PALETTE[value].tolist()) for value in known} == known


# --- sources ---


def test_section_of_a_source_is_tracked(bundle: str, folder: Path, video: Path, tmp_path: Path) -> None:
    scores = tmp_path / "s.jsonl"
    result = run(bundle, folder, *CLICK, "--start", 3, "--end", 8, "--scores", scores, "--masks", tmp_path / "masks")
    assert result.exit_code == 0, result.exception
    lines = [json.loads(line) for line in scores.read_text().splitlines()]
    assert [line["frame"] for line in lines] == [f"frame{index}" for index in range(3, 8)]
    assert sorted(path.stem for path in (tmp_path / "masks").iterdir()) == [f"frame{index}" for index in range(3, 8)]
    # Prompts count from the first frame of the section.
    session = Tracker.load(bundle).start_session()
    answer = session.track(clip_frame(3, HEIGHT, WIDTH), prompts={1: Prompt(points=[(75, 60)], labels=[1])})
    assert lines[0]["objects"][0]["area"] == answer.areas[0]
    result = run(bundle, video, *CLICK, "--start", "0.35", "--scores", scores, "--overwrite")
    assert result.exit_code == 0, result.exception
    assert json.loads(scores.read_text().splitlines()[0])["frame"] == "00004"
    refused(run(bundle, video, *CLICK, "--start", "5", "--end", "5"), "--end 5, which is not behind --start 5")
    refused(run(bundle, video, *CLICK, "--start", "x"), "--start x is neither a frame nor a time")
    refused(run(bundle, video, *CLICK, "--start", "9:00", "--scores", tmp_path / "t.jsonl"), "ends before it")
    file = write_prompts(tmp_path / "p.json", [POINT, {**POINT, "frame": 6}])
    refused(run(bundle, folder, "--prompts", file, "--start", 6), "frames run from 0 to 5")


def test_damaged_video_completes_its_outputs_and_exits_with_2(bundle: str, tmp_path: Path) -> None:
    from etam_edge.media import CHAIR_VIDEO

    data = bytearray(CHAIR_VIDEO.read_bytes())
    place = len(data) // 2
    data[place : place + 10_000] = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "noise.mp4").write_bytes(data)
    scores = tmp_path / "s.jsonl"
    result = run(bundle, tmp_path / "noise.mp4", *CLICK, "--scores", scores, "--output", tmp_path / "v.mp4")
    refused(result, "noise.mp4 was not read whole: ", "of 60 frames are lost", "the outputs hold the ")
    count = len(scores.read_text().splitlines())
    assert 50 < count < 60
    assert read_video(tmp_path / "v.mp4")[0] == count
    # Frames before the damage are whole.
    result = run(bundle, tmp_path / "noise.mp4", *CLICK, "--scores", scores, "--end", 5, "--overwrite")
    assert result.exit_code == 0, result.exception


def test_depth_images_are_tracked_by_a_stated_range(bundle: str, folder: Path, tmp_path: Path) -> None:
    depth = tmp_path / "depth"
    depth.mkdir()
    for index in range(3):
        grey = clip_frame(index, HEIGHT, WIDTH).astype(np.float32).mean(axis=2)
        Image.fromarray((7000 + grey * 9).astype(np.uint16)).save(depth / f"{index}.png")
    scores = tmp_path / "s.jsonl"
    result = run(bundle, depth, *CLICK, "--scores", scores, "--depth-range", "7000,9295")
    assert result.exit_code == 0, result.exception
    assert "counts 7000 to 9295 became grey levels 0 to 255" in result.output
    session = Tracker.load(bundle).start_session()
    for index, line in enumerate(scores.read_text().splitlines()):
        grey = (9 * clip_frame(index, HEIGHT, WIDTH).astype(np.float32).mean(axis=2)).astype(np.uint16) / 9
        prompts = {1: Prompt(points=[(75, 60)], labels=[1])} if index == 0 else None
        answer = session.track(np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2), prompts=prompts)
        assert json.loads(line)["objects"][0]["area"] == answer.areas[0]
    result = run(bundle, depth, *CLICK, "--scores", scores, "--overwrite")
    assert result.exit_code == 0, result.exception
    assert "became grey levels 0 to 255" in result.output
    refused(run(bundle, depth, *CLICK, "--depth-range", "1"), "--depth-range 1 is not of the form LOW,HIGH")
    refused(run(bundle, folder, *CLICK, "--depth-range", "1,2"), "--depth-range is for grey images of more")


def test_raw_frames_are_tracked_from_standard_input(bundle: str, folder: Path, tmp_path: Path) -> None:
    frames = b"".join(clip_frame(index, HEIGHT, WIDTH)[..., ::-1].tobytes() for index in range(3))
    command = [sys.executable, "-m", "etam_edge", "track", bundle, "-", *CLICK, "--scores", "-"]
    size = ["--size", f"{WIDTH}x{HEIGHT}", "--pixel-format", "bgr24"]
    done = subprocess.run([*command, *size], input=frames, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    plain = tmp_path / "s.jsonl"
    assert run(bundle, folder, *CLICK, "--scores", plain, "--max-frames", 3).exit_code == 0
    expected = [json.loads(line) for line in plain.read_text().splitlines()]
    assert [line["objects"] for line in lines] == [line["objects"] for line in expected]
    refused(run(bundle, "-", *CLICK), "give --size WxH and --pixel-format FORMAT")


def test_secrets_of_an_address_are_not_shown(bundle: str) -> None:
    result = run(bundle, "rtsp://user:s3cret@127.0.0.1:1/x", *CLICK)
    refused(result, "rtsp://127.0.0.1:1/x does not open: the host refuses the connection")
    assert "s3cret" not in str(result.exception) + result.output
