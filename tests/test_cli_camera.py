"""Camera frames and ways to resize on the command line, as a user would meet them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import CameraBundleMaker, SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge.bundle import Bundle
from etam_edge.cli.app import app
from etam_edge.spec import Pooling
from etam_edge_testing.refusals import refused
from etam_edge_testing.small import CAMERA, clip_frame, small_model

pytest.importorskip("onnxruntime")

SIZE = f"{CAMERA[1]}x{CAMERA[0]}"
BOX = ("--box", "20,30,90,80")
FRAMES = 20
"""Of the clips: the small model's memory is full after 17."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def write_clip(folder: Path, name: str, shape: tuple[int, int]) -> Path:
    """A folder of images, and a box on the first of them."""
    (folder / name).mkdir(parents=True)
    for index in range(FRAMES):
        Image.fromarray(clip_frame(index, *shape)).save(folder / name / f"{index:03d}.png")
    (folder / f"{name}.json").write_text(json.dumps([{"frame": 0, "object": 1, "box": [20, 30, 60, 60]}]))
    return folder


@pytest.fixture
def camera(camera_bundle: CameraBundleMaker, tmp_path: Path) -> Path:
    return Bundle.load(camera_bundle(CAMERA)).copy_to(tmp_path / "camera").path


@pytest.fixture
def plain(small_bundle: SmallBundleMaker) -> Path:
    return small_bundle(Pooling.SCORE_BIAS)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clips", "disc", CAMERA)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("big", "--frame-size big is not a size; give one like 1280x720"),
        ("1920", "--frame-size 1920 is not a size"),
        ("1920x1080x3", "is not a size"),
        ("-4x100", "is not a size"),
        ("0x0", "--frame-size 0x0: a frame size of 0 x 0 pixels is out of range; use 16 to 8192 pixels a side"),
        ("1920x9000", "a frame size of 1920 x 9000 pixels is out of range"),
        ("99999999999x100", "is out of range"),
    ],
)
def test_sizes_are_refused_before_any_work(text: str, sentence: str, tmp_path: Path) -> None:
    refused(run("export", "--frame-size", text, "--output", tmp_path / "b"), sentence)
    assert list(tmp_path.iterdir()) == []


def test_clips_of_another_size_are_refused_before_any_work(clips: Path, camera: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    target = ("--output", tmp_path / "b")
    call = ("export", "--frame-size", "320x240", "--precision", "int8", "--calibration")
    refused(
        run(*call, clips, *target),
        "clip disc is 150 x 96 pixels, but the bundle to export takes only frames of 320 x 240",
    )
    recording = tmp_path / "recording"
    result = run("record", camera, clips, "--output", recording, "--samples", 2)
    assert result.exit_code == 0, result.exception
    refused(run(*call, recording, *target), "was recorded with graphs of other sizes than the bundle to export has")
    assert not (tmp_path / "b").exists()


@pytest.mark.full
def test_the_package_exports_for_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fp16, whose overflow is looked for on the package's clips: they are scaled to the camera's size."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etam_edge.exporters.checkpoints.load_model", lambda *_: small_model(Pooling.SCORE_BIAS))
    result = run("export", "--frame-size", "160x90", "--precision", "fp16")
    assert result.exit_code == 0, result.exception
    assert "takes frames of 160 x 90 pixels, and no other, and gives masks of that size" in result.output
    bundle = Bundle.load(tmp_path / "bundles" / "etam_nano-160x90-fp16")
    assert bundle.manifest.sizes.frame_size == (90, 160)


def test_inspect_and_track(camera: Path, plain: Path, clips: Path, tmp_path: Path) -> None:
    assert "150 x 96 pixels and no other; frames and masks are resized in the graphs" in run("inspect", camera).output
    assert "of any size; frames and masks are resized on the host" in run("inspect", plain).output
    for name, bundle in (("camera", camera), ("plain", plain)):
        result = run("track", bundle, clips / "disc", *BOX, "--masks", tmp_path / f"{name}-masks")
        assert result.exit_code == 0, result.exception
    pairs = [
        [np.asarray(Image.open(tmp_path / f"{name}-masks" / f"{index:03d}.png")) for name in ("camera", "plain")]
        for index in range(FRAMES)
    ]
    assert np.mean([first != second for first, second in pairs]) < 1e-3
    assert all(first.any() for first, _ in pairs)


def test_track_refuses_what_does_not_fit(camera: Path, plain: Path, clips: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "others", "wide", (90, 160))
    out = ("--masks", tmp_path / "masks")
    refused(
        run("track", camera, tmp_path / "others" / "wide", *BOX, *out),
        f"{tmp_path / 'others' / 'wide'} is 160 x 90 pixels, but {camera} takes only frames of 150 x 96",
    )
    refused(run("track", camera, clips / "disc", *BOX, *out, "--resize", "fast"), "leave it out")
    refused(run("track", plain, clips / "disc", *BOX, *out, "--resize", "quick"), "use exact or fast")
    assert not (tmp_path / "masks").exists()


def test_track_resizes_fast(plain: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    call = ("track", plain, clips / "disc", *BOX, "--resize", "fast", "--masks", tmp_path / "masks")
    assert run(*call).exit_code == 0
    assert len(list((tmp_path / "masks").iterdir())) == FRAMES
    monkeypatch.setitem(sys.modules, "cv2", None)
    refused(run(*call, "--overwrite"), 'needs OpenCV; install it with: pip install "etam-edge[video]"')


def test_check_against_a_bundle_that_resizes_on_the_host(
    camera: Path, plain: Path, clips: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    call = ("check", camera, "--reference", plain, "--output", tmp_path / "check", "--clips")
    result = run(*call, clips, "--min-iou", "0.97")
    assert result.exit_code == 0, (result.exception, result.output)
    write_clip(tmp_path / "others", "wide", (90, 160))
    refused(
        run(*call, tmp_path / "others", "--min-iou", "0.97"),
        "clip wide is 160 x 90 pixels",
        "takes only frames of 150 x 96",
    )
    refused(
        run("sensitivity", camera, "--clips", tmp_path / "others", "--output", tmp_path / "s"),
        "clip wide is 160 x 90 pixels",
    )


@pytest.mark.full
def test_bench_draws_frames_of_the_bundles_size(camera: Path, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    short = ("--frames", 30, "--warm-up", 17, "--objects", 1, "--threads", 1, "--output", tmp_path / "bench")
    result = run("bench", camera, "--against", plain, "--against-resize", "fast", *short)
    assert result.exit_code == 0, result.exception
    figures = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (figures["source"]["width"], figures["source"]["height"]) == (CAMERA[1], CAMERA[0])
    assert [side["resize"] for side in figures["sides"]] == ["graph", "fast"]
    assert "--against-resize fast" in figures["command"]
    assert "resizes in its graphs" in result.output
    assert "resizes fast" in result.output
    assert run("bench", plain, "--resize", "fast", *short).exit_code == 0
    refused(
        run("bench", camera, "--frame-size", "64x64", *short),
        "clip drawn is 64 x 64 pixels",
        "takes only frames of 150 x 96",
    )
    refused(run("bench", camera, "--resize", "fast", *short), "leave it out")
    refused(run("bench", plain, "--resize", "quick", *short), "use exact or fast")
    refused(run("bench", plain, "--against-resize", "fast", *short), "--against-resize is for --against BUNDLE")


@pytest.mark.full
def test_the_measurement_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("cv2")
    example: ModuleType = load_example()
    monkeypatch.setattr(example, "nano", lambda: small_model(Pooling.SCORE_BIAS))
    assert example.main(["--quick", "--frames", "3"]) is None
    lines = capsys.readouterr().out.splitlines()
    [pixels] = [line for line in lines if line.startswith("| in the graph")]
    assert all(float(cell.split("/")[0]) < 1e-3 for cell in pixels.split("|")[2:-1])
    [masks] = [line for line in lines if line.startswith("| crossing")]
    assert float(masks.split("|")[-2].split("/")[0]) > 0.99


def test_the_measurement_of_times(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("cv2")
    row = load_example().measure_times((90, 160), 128, 2, tmp_path)
    assert len(row) == 7
    assert all(float(cell.split()[0]) >= 0 for cell in row)


def load_example() -> ModuleType:
    import importlib.util

    path = Path(__file__).parent.parent / "benchmarks" / "camera_to_mask.py"
    spec = importlib.util.spec_from_file_location("camera_to_mask", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
