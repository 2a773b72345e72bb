"""Every example of examples/ runs as its README says, on a few frames."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etam_edge.media import CHAIR_VIDEO

cv2 = pytest.importorskip("cv2")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
TRACK = EXAMPLES / "01_track_a_video" / "track_a_video.py"
CAMERA = EXAMPLES / "02_camera_loop" / "camera_loop.py"
QUANTIZE = EXAMPLES / "03_quantize_and_check" / "quantize_and_check.sh"
TIME = EXAMPLES / "04_deploy_to_jetson" / "time_frames.py"
SEGMENT = EXAMPLES / "05_segment_images" / "segment_images.py"


def environment() -> dict[str, str]:
    """An environment in which `etam-edge` and `python` are those of this interpreter, and the package this checkout."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(*command: object, folder: Path, code: int = 0, **more: str) -> str:
    """Output of a command, which has to end with an exit code."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env={**environment(), **more}, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the bundle that the READMEs export: bundles/etam_nano-fp32."""
    path = tmp_path_factory.mktemp("examples")
    shutil.copytree(nano_bundle, path / "bundles" / "etam_nano-fp32")
    return path


def test_every_example_has_a_readme_and_is_listed() -> None:
    numbered = sorted(path.name for path in EXAMPLES.iterdir() if path.name[0].isdigit())
    assert numbered == [
        "01_track_a_video",
        "02_camera_loop",
        "03_quantize_and_check",
        "04_deploy_to_jetson",
        "05_segment_images",
    ]
    index = (EXAMPLES / "README.md").read_text()
    for name in numbered:
        text = (EXAMPLES / name / "README.md").read_text()
        assert text.startswith(f"# {name[:2]}: ")
        assert f"({name}/README.md)" in index
        scripts = [path for path in (EXAMPLES / name).iterdir() if path.suffix in (".py", ".sh")]
        assert any(script.name in text for script in scripts), name
        for script in scripts:
            assert not re.search(r"^\s*(from|import) (tests|etam_edge_testing)\b", script.read_text(), re.MULTILINE)


def test_track_a_video(folder: Path) -> None:
    text = run(sys.executable, TRACK, "--max-frames", 6, folder=folder)
    assert "frame 0: visible, box [" in text
    assert text.splitlines()[-1] == "6 frames with onnxruntime (cpu): chair_tracked.mp4"
    overlay, original = (cv2.VideoCapture(str(path)) for path in (folder / "chair_tracked.mp4", CHAIR_VIDEO))
    for _ in range(6):
        (read, drawn), (_, plain) = overlay.read(), original.read()
        assert read
        difference = np.abs(drawn.astype(int) - plain).mean(axis=-1)
        assert difference[60:150, 60:140].mean() > 25, "the back of the chair is coloured"
        assert difference[300:, 300:].mean() < 10, "the wall is not"
    assert not overlay.read()[0]


def test_track_a_video_refuses_a_file_that_is_no_video(folder: Path) -> None:
    text = run(sys.executable, TRACK, "--video", TRACK, folder=folder, code=1)
    assert f"{TRACK} has no frame that OpenCV can read" in text
    assert "Traceback" not in text


def test_camera_loop_tracks_reports_saves_and_resumes(folder: Path) -> None:
    command = (sys.executable, CAMERA, "--camera", CHAIR_VIDEO, "--point", "140,120", "--state", "state.npz")
    text = run(*command, "--max-frames", 4, folder=folder)
    assert re.search(r"^4 frames tracked, \d+ dropped; latency [\d.]+ ms median, [\d.]+ ms 95th", text, re.MULTILINE)
    assert text.splitlines()[-1] == "saved state.npz at frame 3"
    text = run(*command, "--max-frames", 2, folder=folder)
    assert text.startswith("resumed state.npz at frame 3 with object (1,)")
    assert text.splitlines()[-1] == "saved state.npz at frame 5"


def test_camera_loop_ends_with_the_camera_and_counts_every_frame(folder: Path) -> None:
    state = folder / "ended.npz"
    text = run(sys.executable, CAMERA, "--camera", CHAIR_VIDEO, "--point", "140,120", "--state", state, folder=folder)
    tracked, dropped = map(int, re.findall(r"^(\d+) frames tracked, (\d+) dropped", text, re.MULTILINE)[-1])
    assert tracked > 0
    assert tracked + dropped <= 60
    assert text.splitlines()[-1] == f"saved {state} at frame {tracked - 1}"


def test_camera_loop_saves_when_it_is_interrupted(folder: Path, tmp_path: Path) -> None:
    state, slow = tmp_path / "state.npz", tmp_path / "slow.mp4"
    # A minute of one frame a second: the run is still going when it is interrupted.
    writer = cv2.VideoWriter(str(slow), cv2.VideoWriter.fourcc(*"mp4v"), 1.0, (320, 240))
    for _ in range(60):
        writer.write(np.full((240, 320, 3), 90, np.uint8))
    writer.release()
    command = [sys.executable, "-u", CAMERA, "--camera", slow, "--point", "140,120", "--state", state]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tracking; Ctrl-C saves the session and ends\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "interrupted" in output
    assert f"saved {state}" in output
    assert state.is_file()


def test_camera_loop_leaves_bad_frames_out_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """Frames of another size are refused by the session; the loop prints why and tracks the next."""
    code = f"""
import sys, time; sys.path.insert(0, {str(CAMERA.parent)!r})
import numpy as np, camera_loop
from newest_frame import Arrival
from etam_edge import Prompt, Tracker
shapes = [(48, 64), (48, 64), (32, 32), (48, 64)]
frames = [Arrival(np.full((*shape, 3), 90, np.uint8), n, time.perf_counter()) for n, shape in enumerate(shapes)]
camera = type("Camera", (), {{"take": lambda self: frames.pop(0) if frames else None}})()
session = Tracker.load("bundles/etam_nano-fp32").start_session(max_objects=1)
camera_loop.run(session, camera, {{1: Prompt(points=[(30, 20)], labels=[1])}}, None)
assert session.frame_index == 2, session.frame_index
"""
    text = run(sys.executable, "-c", code, folder=folder)
    assert "frame 2 was left out: " in text
    assert "3 frames tracked, 1 dropped" in text


@pytest.mark.full
def test_quantize_and_check(folder: Path) -> None:
    output = folder / "quantize"
    text = run(QUANTIZE, output, folder=folder, MAX_FRAMES="20")
    assert "report.html" in text
    figures = json.loads((output / "check" / "check.json").read_text())
    assert figures["verdict"]["passed"]
    assert figures["comparison"]["overall"]["drop"]["j_and_f"] <= 1.0
    manifests = [json.loads((output / name / "bundle.json").read_text()) for name in ("fp32", "int8")]
    assert [manifest["precision"] for manifest in manifests] == ["fp32", "int8"]


def test_time_frames(folder: Path) -> None:
    command = (sys.executable, TIME, "--bundle", "bundles/etam_nano-fp32", "--source", CHAIR_VIDEO)
    text = run(*command, "--runtime", "onnxruntime", "--objects", 2, "--frames", 5, folder=folder)
    assert text.splitlines()[0] == "etam_nano, fp32, onnxruntime (cpu), objects: 2"
    assert re.fullmatch(
        r"5 frames: median [\d.]+ ms, 95th percentile [\d.]+ ms \([\d.]+ frames/s\)", text.splitlines()[1]
    )


def test_time_frames_does_not_fall_back_to_another_runtime(folder: Path) -> None:
    command = (sys.executable, TIME, "--bundle", "bundles/etam_nano-fp32", "--source", CHAIR_VIDEO)
    text = run(*command, folder=folder, code=1)
    assert "tensorrt" in text.lower()
    assert "Traceback" not in text
    assert "median" not in text


def test_segment_images(folder: Path) -> None:
    said = run(sys.executable, SEGMENT, "--points-per-side", 6, folder=folder)
    assert re.search(r"^\d+ masks with onnxruntime", said, re.MULTILINE), said
    assert re.search(r"^the centre: 3 masks, predicted IoUs 0\.\d\d, ", said, re.MULTILINE), said
    assert cv2.imread(str(folder / "everything.png")).shape == cv2.VideoCapture(str(CHAIR_VIDEO)).read()[1].shape
