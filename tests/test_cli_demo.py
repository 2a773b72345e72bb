"""`etam-edge demo`: what a newcomer sees first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from etam_edge import media
from etam_edge.bundle import Bundle
from etam_edge.cli.app import app
from etam_edge.errors import EtamError, InputError
from etam_edge.media import CHAIR_VIDEO, chair_masks, chair_outline, crossing, write_clips

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

DATA = Path(__file__).parent / "data" / "chair"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def cut(folder: Path, frames: int) -> None:
    """Keep the first frames of the clips that `write_clips` wrote."""
    source = cv2.VideoCapture(str(CHAIR_VIDEO))
    images = [source.read()[1] for _ in range(frames)]
    source.release()
    height, width, _ = images[0].shape
    (folder / "chair.mp4").unlink()
    writer = cv2.VideoWriter(str(folder / "chair.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
    for image in images:
        writer.write(image)
    writer.release()
    for name in ("chair_masks", "crossing", "crossing_masks"):
        for file in sorted((folder / name).iterdir())[frames:]:
            file.unlink()


# 20 frames are just enough to fill the memory, which calibration demands.
@pytest.mark.full
@pytest.mark.parametrize("frames", [20, 60])
@pytest.mark.usefixtures("offline")
def test_demo_exports_tracks_checks_and_says_what_is_where(
    frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_cut_clips(folder: Path) -> None:
        write_clips(folder)
        if frames < 60:
            cut(folder, frames)

    monkeypatch.setattr(media, "write_clips", write_cut_clips)
    output = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--output", str(output)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.exception
    for precision in ("fp32", "fp16", "int8"):
        assert Bundle.load(output / precision).manifest.precision == precision
        command = "export" if precision == "fp32" else f"quantize {output / 'fp32'} --precision {precision}"
        assert f"$ etam-edge {command} " in result.output
        assert f" --output {output / precision} --overwrite" in result.output
        for name in ("chair", "crossing"):
            video = output / f"{name}_{precision}.mp4"
            assert video.stat().st_size > 10_000
            assert str(video) in result.output
    assert all(word in result.output for word in ("precision", "size", "ms a frame", "J&F", "drop"))
    assert result.output.splitlines()[-1].startswith("next: etam-edge track ")

    # What a precision may cost, on real frames and on drawn ones. fp16 is rounded as a GPU rounds it.
    for precision, most, least_iou in (("fp16", 0.1, 0.99), ("int8", 1.0, 0.85)):
        figures = json.loads((output / f"check_{precision}" / "check.json").read_text())
        assert figures["verdict"]["passed"]
        assert ("rounded after every operation" in figures["candidate"]["runtime"]) == (precision == "fp16")
        for clip in figures["comparison"]["clips"]:
            assert clip["frames"] == frames
            assert clip["figures"]["drop"]["j_and_f"] <= most, (precision, clip["name"])
            assert clip["figures"]["mean_iou"] >= least_iou, (precision, clip["name"])
        assert Bundle.load(output / precision).manifest.accuracy.passed


def test_demo_in_a_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "file" / "demo")])
    assert isinstance(result.exception, InputError)
    assert "cannot be made" in str(result.exception)


def test_demo_without_opencv_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "demo")])
    assert isinstance(result.exception, EtamError)
    assert "pip install" in str(result.exception)
    assert not (tmp_path / "demo").exists()


def test_packed_masks_are_the_annotations() -> None:
    annotations = [np.asarray(Image.open(file)) > 0 for file in sorted((DATA / "Annotations").iterdir())]
    assert np.array_equal(chair_masks(), np.stack(annotations))
    assert CHAIR_VIDEO.read_bytes() == (DATA / "chair.mp4").read_bytes()
    assert chair_outline().shape == (480, 720)
    assert chair_outline()[110, 100]
    assert not (chair_outline() & chair_masks()[0]).any()


def test_crossing_hides_the_box_and_shows_it_again() -> None:
    frames, masks = crossing()
    assert frames.shape == (60, 240, 320, 3)
    assert masks.shape == (60, 2, 240, 320)
    assert not (masks[:, 0] & masks[:, 1]).any()
    visible = masks.sum((2, 3))
    assert visible[:, 0].min() > 3000
    assert visible[0, 1] > 3000
    assert visible[30:40, 1].min() < 20
    assert visible[-1, 1] > 3000
