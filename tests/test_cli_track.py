"""`etam-edge track`, driven as a user would drive it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from conftest import SmallBundleMaker
from PIL import Image
from small import clip_frame
from typer.testing import CliRunner

from etam_edge import Prompt, Session, Tracker
from etam_edge.cli.app import app
from etam_edge.errors import EtamError
from etam_edge.spec import Pooling

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


def refused(result: Result, sentence: str) -> None:
    """One clear sentence, and the exit code of a wrong call."""
    assert isinstance(result.exception, EtamError), result.exception
    assert result.exception.exit_code == 2
    text = str(result.exception)
    assert sentence in text, text
    assert "\n" not in text


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
    refused(run(bundle, tmp_path / "text.mp4", *CLICK), "is no video")
    (tmp_path / "nothing.mp4").touch()
    refused(run(bundle, tmp_path / "nothing.mp4", *CLICK), "is no video")
    refused(run(bundle, "97", *CLICK), "camera 97 does not open")


def test_image_that_cannot_be_read_is_named_and_what_came_before_is_kept(
    bundle: str, folder: Path, tmp_path: Path
) -> None:
    whole = (folder / "frame4.png").read_bytes()
    (folder / "frame4.png").write_bytes(whole[: len(whole) // 2])
    result = run(bundle, folder, *CLICK, "--scores", tmp_path / "s.jsonl", "--masks", tmp_path / "masks")
    refused(result, "frame4.png is damaged")
    assert "the 4 frames before it are kept" in str(result.exception)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 4
    assert len(list((tmp_path / "masks").iterdir())) == 4
    (folder / "frame0.png").write_text("words")
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "t.jsonl"), "frame0.png is no image")
    assert not (tmp_path / "t.jsonl").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_frame_of_another_size_is_refused_in_mid_stream(bundle: str, folder: Path, tmp_path: Path) -> None:
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
    "not mp4": (("--point", "75,60", "--output", "v.avi"), "is no .mp4 file"),
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
    refused(run(bundle, folder, "--mask", tmp_path / "words.png"), "is no mask image")
    Image.fromarray(np.full((20, 20), 255, dtype=np.uint8)).save(tmp_path / "small.png")
    refused(run(bundle, folder, "--mask", tmp_path / "small.png"), "has shape (20, 20) and the frame is (96, 151)")


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
    "labels": ([{"points": [[75, 60]]}], "points without labels"),
    "id": ([{**POINT, "object": 300}], "ids 1 to 255"),
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_wrong_prompts_file_is_refused(name: str, bundle: str, folder: Path, tmp_path: Path) -> None:
    entries, sentence = WRONG_PROMPTS[name]
    file = write_prompts(tmp_path / "p.json", entries)
    refused(run(bundle, folder, "--prompts", file, "--masks", tmp_path / "masks"), sentence)


def test_prompts_file_that_is_not_json_is_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[{")
    refused(run(bundle, folder, "--prompts", tmp_path / "p.json"), "is not JSON")
    (tmp_path / "p.json").write_bytes(b"\xff\xfe")
    refused(run(bundle, folder, "--prompts", tmp_path / "p.json"), "cannot be read")


def test_output_that_cannot_be_written_is_refused(bundle: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "file").write_text("x")
    refused(run(bundle, folder, *CLICK, "--output", tmp_path / "file" / "v.mp4"), "--output")
    refused(run(bundle, folder, *CLICK, "--masks", tmp_path / "file"), "--masks")
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "file" / "s.jsonl"), "--scores")
    (tmp_path / "folder.jsonl").mkdir()
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "folder.jsonl"), "is a folder")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_full_disk_is_one_sentence(bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etam_edge.cli import outputs

    class FullDisk(outputs.ScoreLines):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._file.close()
            self._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115

    monkeypatch.setattr(outputs, "ScoreLines", FullDisk)
    refused(run(bundle, folder, *CLICK, "--scores", tmp_path / "s.jsonl"), "No space left on device")
    assert not (tmp_path / "s.jsonl").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_interrupted_run_keeps_what_it_has(
    bundle: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = Session.track

    def interrupted(session: Session, *arguments: Any, **options: Any) -> Any:
        if session.frame_index == 4:
            raise KeyboardInterrupt
        return track(session, *arguments, **options)

    monkeypatch.setattr(Session, "track", interrupted)
    result = run(bundle, folder, *CLICK, "--output", tmp_path / "v.mp4", "--scores", tmp_path / "s.jsonl")
    assert result.exit_code == 130
    assert "interrupted; 5 frames" in result.output
    assert read_video(tmp_path / "v.mp4")[0] == 5
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 5


def test_damaged_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    refused(run(tmp_path / "nowhere", folder, *CLICK), "there is no bundle at")


def test_overlap_goes_to_the_higher_score(tmp_path: Path) -> None:
    from etam_edge.cli.outputs import MaskFolder
    from etam_edge.cli.sources import NamedFrame
    from etam_edge.runtimes.types import FrameResult

    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, :, :3], masks[1, :, 2:] = True, True
    for scores, owner in (([2.0, 1.0], 5), ([1.0, 2.0], 6)):
        result = FrameResult(0, (5, 6), masks, masks.astype(np.float32), np.array(scores), np.ones(2), np.zeros(2, int))
        MaskFolder(tmp_path, (5, 6)).write(NamedFrame("a", np.zeros((4, 4, 3), dtype=np.uint8)), result)
        labels = np.asarray(Image.open(tmp_path / "a.png"))
        assert labels[0].tolist() == [5, 5, owner, 6]


def test_palette_is_that_of_davis() -> None:
    from etam_edge.cli.outputs import PALETTE

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
