"""`etam-edge live` and `etam-edge prompt` as commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import etam_edge
from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.media.prompt_files import plan_file
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

pytest.importorskip("av")
FRAMES = 12


@pytest.fixture(scope="module")
def bundle(small_bundle: Callable[[Pooling], Path]) -> Path:
    return small_bundle(Pooling.NONE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the command, with a folder of images in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    for index in range(FRAMES):
        Image.fromarray(clip_frame(index)).save(tmp_path / "frames" / f"{index:03d}.png")
    return tmp_path


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, etam_edge.EtamError):
        assert result.exception.exit_code == code
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def test_outputs_are_written_and_figures_reported(bundle: Path, folder: Path) -> None:
    text = run(
        *("live", bundle, "frames", "--point", "64,64", "--every-frame", "--threads", 1),
        *("--scores", "out/scores.jsonl", "--masks", "out/masks", "--output", "out/run.mp4"),
    )
    lines = [json.loads(line) for line in Path("out/scores.jsonl").read_text().splitlines()]
    assert [line["frame_index"] for line in lines] == list(range(FRAMES))
    assert lines[3]["frame"] == "003"
    assert len(list(Path("out/masks").iterdir())) == FRAMES
    assert Path("out/run.mp4").stat().st_size > 500
    assert re.search(r"12 frames in \d+\.\d s, .* frames/s, age .* ms, frame time .* \(p50/p95/p99\), 0 skipped", text)
    assert "out/run.mp4" in text
    # What is there is not replaced without being asked for.
    again = run("live", bundle, "frames", "--point", "64,64", "--scores", "out/scores.jsonl", code=2)
    assert "add --overwrite to replace it" in again


def test_scores_on_standard_output_are_alone_there(bundle: Path, folder: Path) -> None:
    result = CliRunner().invoke(
        app, ["live", str(bundle), "frames", "--point", "64,64", "--every-frame", "--scores", "-", "--threads", "1"]
    )
    assert result.exit_code == 0
    assert "frames/s" in result.stderr
    assert "frames/s" not in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no object was prompted; add --point X,Y"),
        (["--point", "64,64", "--queue", "3", "--every-frame"], "--every-frame skips nothing, and --queue says when"),
        (["--point", "64,64", "--on-new-size", "grow"], "--on-new-size grow is neither stop nor restart"),
        (["--point", "500,64"], "lies outside the frame, which is 128 x 128 pixels"),
        (["--serve", "127.0.0.1:"], "--serve 127.0.0.1: is not an address; give HOST:PORT"),
        (["--point", "64,64", "--rerun"], "no Rerun viewer listens at 127.0.0.1:9876"),
        (["--point", "64,64", "--output", "run.avi"], "--output run.avi is not an .mp4 file"),
        (["--point", "64,64", "--size", "big"], "--size big is not a size"),
    ],
)
def test_wrong_calls_are_refused_in_one_sentence(bundle: Path, folder: Path, words: list[str], sentence: str) -> None:
    if "--rerun" in words:
        pytest.importorskip("rerun")
    if "--serve" in words:
        pytest.importorskip("uvicorn")
    assert sentence in run("live", bundle, "frames", "--threads", 1, *words, code=2)
    assert sorted(path.name for path in folder.iterdir()) == ["frames"]


def test_optional_values_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    def record(*arguments: object, **options: object) -> None:
        given.append({"words": arguments[:2], "serve": options["serve"], "rerun": options["rerun"]})
        raise InputError("stop here")

    monkeypatch.setattr("etam_edge.workflows.live.live", record)
    calls = [
        (["live", "--serve", "b", "0"], "127.0.0.1:8642", False),
        (["live", "b", "0", "--serve"], "127.0.0.1:8642", False),
        (["live", "b", "--serve", "0"], "127.0.0.1:8642", False),
        (["live", "b", "0", "--serve", "0.0.0.0:80", "--rerun"], "0.0.0.0:80", True),
        (["live", "b", "0", "--serve", "9000", "--rerun", "run.rrd"], "9000", Path("run.rrd")),
        (["live", "b", "rtsp://camera/stream", "--serve=[::1]:80"], "[::1]:80", False),
    ]
    for words, serve, rerun in calls:
        run(*words, code=2)
        assert given[-1]["serve"] == serve
        assert given[-1]["rerun"] == rerun
        assert given[-1]["words"] == (Path("b"), "rtsp://camera/stream" if "rtsp" in words[2] else "0")


def test_a_signal_ends_a_run_cleanly_with_its_outputs(bundle: Path, folder: Path) -> None:
    for number, name in ((signal.SIGINT, "first"), (signal.SIGTERM, "second")):
        words = ["live", bundle, "frames", "--point", "64,64", "--threads", 1, "--scores", f"{name}.jsonl"]
        environment = {**os.environ, "PYTHONPATH": str(Path(etam_edge.__file__).parents[1])}
        # Each frame takes 0.3 s more, so that the signal comes while frames are tracked.
        code = (
            "import sys, time\nfrom etam_edge.live.loop import LiveLoop\nfrom etam_edge.cli.app import main\n"
            "show = LiveLoop._show\n"
            "def slow(*arguments):\n    print('tracked', flush=True)\n    time.sleep(0.3)\n"
            "    return show(*arguments)\n"
            "LiveLoop._show = slow\nsys.argv[0] = 'etam-edge'\nmain()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words), "--every-frame"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "tracked\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "stopped; " in out
        lines = Path(f"{name}.jsonl").read_text().splitlines()
        assert 1 <= len(lines) < FRAMES
        assert all(json.loads(line)["objects"] for line in lines)


def test_python_function_is_public_and_callable_whatever_was_imported(bundle: Path, folder: Path) -> None:
    import etam_edge.live.reader

    reports: list[object] = []
    result = etam_edge.live(
        bundle,
        "frames",
        {0: {1: etam_edge.Prompt(box=(30, 30, 100, 100))}, 5: {2: etam_edge.Prompt(points=[(20, 20)], labels=[1])}},
        scores="scores.jsonl",
        threads=1,
        on_report=reports.append,
        report_seconds=0.01,
    )
    assert reports
    assert result.kept == [Path("scores.jsonl")]
    assert result.ending.frames == FRAMES
    lines = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    # Frames with prompts are tracked, however many are skipped between them.
    assert {"000", "005"} <= {line["frame"] for line in lines}
    assert [one["id"] for one in lines[-1]["objects"]] == [1, 2]
    Path("saved.json").write_text(result.prompts)
    assert [planned.frame for planned in plan_file(Path("saved.json")).planned] == [0, 5]


def test_frames_that_change_their_size_go_into_further_outputs(bundle: Path, folder: Path) -> None:
    for index in range(6, FRAMES):
        Image.fromarray(clip_frame(index, 96, 150)).save(folder / "frames" / f"{index:03d}.png")
    words = ["live", bundle, "frames", "--point", "64,64", "--every-frame", "--threads", 1]
    words += ["--scores", "scores.jsonl", "--output", "run.mp4"]
    stopped = run(*words, code=2)
    assert "frame 6 is 150 x 96 pixels, and those before were 128 x 128; --on-new-size restart begins" in stopped
    assert len(Path("scores.jsonl").read_text().splitlines()) == 6
    run(*words, "--overwrite", "--on-new-size", "restart")
    assert len(Path("scores.jsonl").read_text().splitlines()) == 6
    rest = [json.loads(line) for line in Path("scores_2.jsonl").read_text().splitlines()]
    assert [line["objects"] for line in rest] == [[]] * 6
    assert Path("run_2.mp4").exists()


def test_prompt_writes_what_the_page_selected(bundle: Path, folder: Path) -> None:
    client = pytest.importorskip("websockets.sync.client")
    pytest.importorskip("uvicorn")
    from etam_edge.live.run import LiveStart
    from etam_edge.workflows.live import find_prompts

    def visit(start: LiveStart) -> None:
        assert start.url is not None
        host = start.url.partition("//")[2].strip("/")

        def browse() -> None:
            with client.connect(f"ws://{host}/socket", origin=f"http://{host}") as page:
                messages = [
                    {"type": "prompt", "snapshot": 1, "object": None, "points": [[64, 64]], "labels": [1]},
                    {"type": "label", "object": 1, "label": "disc"},
                    {"type": "finish"},
                ]
                # The page is paused on the first frame.
                while isinstance(page.recv(30), str):
                    pass
                for message in messages:
                    page.send(json.dumps(message))
                    time.sleep(0.05)

        threading.Thread(target=browse, daemon=True).start()

    result = find_prompts(bundle, "frames", output="prompts.json", serve="127.0.0.1:0", threads=1, on_start=visit)
    assert result.kept == [Path("prompts.json")]
    assert json.loads(Path("prompts.json").read_text()) == [
        {"frame": 0, "object": 1, "points": [[64, 64]], "labels": [1], "label": "disc"}
    ]
    text = run("track", bundle, "frames", "--prompts", "prompts.json", "--scores", "scores.jsonl", "--threads", 1)
    assert "12 frames, 1 object" in text


def test_rerun_file_holds_what_was_tracked(bundle: Path, folder: Path) -> None:
    pytest.importorskip("rerun")
    program = Path(sys.executable).with_name("rerun")
    if not program.exists():
        pytest.skip("the program rerun, which reads the file back, is not beside this Python")
    run("live", bundle, "frames", "--point", "64,64", "--every-frame", "--threads", 1, "--rerun", "run.rrd")
    environment = {**os.environ, "HOME": str(folder)}
    shown = subprocess.run(
        [program, "rrd", "print", "run.rrd"], capture_output=True, text=True, timeout=60, check=True, env=environment
    ).stdout
    for entity in ("/camera/image", "/camera/masks", "/camera/boxes", "/objects/1/score", "/timing/age_ms"):
        assert entity in shown, entity


def test_a_window_shows_frames_and_closing_it_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    pytest.importorskip("tkinter")
    pytest.importorskip("cv2")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb, a display without a screen, is not installed (Debian: xvfb)")
    from etam_edge.live.window import Window
    from etam_edge.media.sources import NamedFrame
    from etam_edge.runtimes import FrameResult

    reading, writing = os.pipe()
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "320x240x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as named:
        monkeypatch.setenv("DISPLAY", f":{named.readline().strip()}")
    try:
        window = Window("clip")
        pixels = clip_frame(0, 480, 640)
        masks = np.zeros((1, 480, 640), dtype=bool)
        masks[0, 100:200, 100:200] = True
        one = np.ones(1, dtype=np.float32)
        window.write(
            NamedFrame("0", pixels),
            FrameResult(0, (1,), masks, np.zeros((1, 8, 8), np.float32), one, one, np.zeros(1, np.int32)),
        )
        # At most 0.8 of the screen's 320 x 240 pixels.
        assert (window._photo.width(), window._photo.height()) == (256, 192)
        assert not window.closed
        window._root.event_generate("<Escape>")
        window.idle()
        assert window.closed
    finally:
        display.terminate()
        display.wait(10)
