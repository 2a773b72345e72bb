"""How commands end: exit codes, signals, closed pipes, defects, and names that terminals must not obey."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner

from etam_edge import interrupts
from etam_edge.cli import app as program
from etam_edge.errors import RuntimeUnavailableError
from etam_edge.printable import one_line, printable
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

ESCAPE = "\x1b[31m"


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """The exit code of the program whose command raises an error."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit) as ending:
        program.main()
    return ending.value.code


def test_a_defect_is_no_failed_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, ZeroDivisionError("division by zero")) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("etam-edge: this is a defect of etam-edge; please report it with the lines above\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (interrupts.Terminated(signal.SIGTERM), 143),
        (interrupts.Terminated(signal.SIGHUP), 129),
        (RuntimeUnavailableError(f"no {ESCAPE}\nGPU \udce9"), 2),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, error) == code
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


@pytest.mark.parametrize("command", ["export", "check", "bench"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_leaves_nothing(
    command: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else interrupts.Terminated(number)

    monkeypatch.setattr(importlib.import_module(f"etam_edge.workflows.{command}"), command, interrupted)
    monkeypatch.chdir(tmp_path)
    arguments = {"export": [], "check": ["b", "--reference", "r", "--clips", "c"], "bench": ["b"]}[command]
    result = CliRunner().invoke(program.app, [command, *arguments])
    assert result.exit_code == 128 + number
    assert f"etam-edge: {command} was interrupted; nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_an_import_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as pressed:
                raise ImportError("C-extensions failed") from pressed
        except ImportError as error:
            raise RuntimeUnavailableError("export needs a package that is missing") from error

    monkeypatch.setattr("etam_edge.workflows.export.export", broken)
    result = CliRunner().invoke(program.app, ["export"])
    assert result.exit_code == 130
    assert "export was interrupted" in result.output


def test_names_reach_the_terminal_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from etam_edge.cli.console import _Plain

    console = _Plain()
    table = Table("name [/y]", title=f"title {ESCAPE}")
    table.add_row(f"[/y] [red] :cat: {ESCAPE} \udce9")
    console.print(table)
    console.print(f"[/y] {ESCAPE}")
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert r"[/y] [red] :cat: \x1b[31m \xe9" in text
    assert printable("a\tb\nc\u202e\x9b") == "a\tb\nc\\u202e\\x9b"
    assert one_line("a\tb\nc") == r"a\tb\nc"


def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "etam_edge", *map(os.fspath, arguments)], stderr=subprocess.PIPE, **options
    )


def test_a_name_that_is_not_utf8_is_an_error_on_a_strict_terminal(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "1"}
    process = start("inspect", tmp_path / name, env=environment, stdout=subprocess.PIPE)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 2
    assert text.decode("ascii").startswith("etam-edge: there is no bundle at")
    assert rb"caf\xe9\x1b[31m" in text


def test_a_closed_pipe_is_no_failed_check() -> None:
    read, write = os.pipe()
    os.close(read)
    process = start("models", stdout=write)
    os.close(write)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 141
    assert text == b""


# --- track, as a service manager stops it ---


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker) -> Path:
    pytest.importorskip("onnxruntime")
    return small_bundle(Pooling.KEY_BIAS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "clip"
    path.mkdir()
    for index in range(6):
        Image.fromarray(clip_frame(index, 64, 80)).save(path / f"{index}.png")
    return path


def test_sigterm_keeps_all_outputs_and_a_kill_is_tidied_up(bundle: Path, folder: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    pytest.importorskip("cv2")
    out = tmp_path / "out"
    code = (
        "import time\n"
        "from etam_edge.runtimes import Session\n"
        "track = Session.track\n"
        "def slowly(*a, **k):\n"
        "    time.sleep(30 if a[0].frame_index == 2 else 0)\n"
        "    return track(*a, **k)\n"
        "Session.track = slowly\n"
        "from etam_edge.__main__ import main\n"
        "main()\n"
    )
    words = ["track", bundle, folder, "--point", "40,30", "--threads", "1"]
    words += ["--output", out / "v.mp4", "--masks", out / "m", "--scores", out / "s.jsonl", "--overwrite"]

    def stopped_by(number: signal.Signals) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until = time.monotonic() + 120
        while not list(out.glob("m/2.png")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        return process

    # Masks appear at once; the video and the scores are hidden until they are complete.
    killed = stopped_by(signal.SIGKILL)
    killed.communicate(timeout=120)
    assert len(list(out.glob(".*.partial.*"))) == 2
    assert not (out / "v.mp4").exists()

    (out / "m" / "2.png").unlink()
    ended = stopped_by(signal.SIGTERM)
    text, _ = ended.communicate(timeout=120)
    assert ended.returncode == 143, text
    assert "interrupted; 3 frames, 1 object" in text
    assert sorted(path.name for path in out.iterdir()) == ["m", "s.jsonl", "v.mp4"]
    assert sorted(path.name for path in (out / "m").iterdir()) == ["0.png", "1.png", "2.png"]
    assert len((out / "s.jsonl").read_text().splitlines()) == 3
    with av.open(str(out / "v.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


def test_scores_on_standard_output_are_alone_there(
    bundle: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    device = os.stat("/dev/stdout", follow_symlinks=False)
    for name in ("-", "/dev/stdout"):
        result = CliRunner().invoke(
            program.app, ["track", str(bundle), str(folder), "--point", "40,30", "--max-frames", "2", "--scores", name]
        )
        assert result.exit_code == 0, result.exception
        assert "2 frames, 1 object" in result.output
        assert result.stdout == ""
        lines = capfd.readouterr().out.splitlines()
        assert [json.loads(line)["frame_index"] for line in lines] == [0, 1]
    assert os.stat("/dev/stdout", follow_symlinks=False).st_ino == device.st_ino
    assert not (tmp_path / "-").exists()


def test_outputs_are_refused_before_the_bundle_is_loaded(folder: Path, tmp_path: Path) -> None:
    from etam_edge_testing.refusals import refused

    (tmp_path / "taken.jsonl").write_text("x")
    for option, name, sentence in (
        ("--output", "v.avi", "is not an .mp4 file"),
        ("--scores", "taken.jsonl", "is there already; add --overwrite to replace it"),
        ("--masks", "clip", "holds what this run reads"),
    ):
        result = CliRunner().invoke(
            program.app,
            ["track", str(tmp_path / "nowhere"), str(folder), "--point", "40,30", option, str(tmp_path / name)],
        )
        refused(result, sentence)
    assert (tmp_path / "taken.jsonl").read_text() == "x"


def test_the_default_video_is_not_replaced(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etam_edge_testing.refusals import refused

    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip_tracked.mp4").write_text("of another camera")
    result = CliRunner().invoke(program.app, ["track", "nowhere", str(folder), "--point", "40,30"])
    refused(result, "--output clip_tracked.mp4 is there already; add --overwrite to replace it")
    assert (tmp_path / "clip_tracked.mp4").read_text() == "of another camera"


def test_provider_of_track(bundle: Path, folder: Path, tmp_path: Path) -> None:
    from etam_edge_testing.refusals import refused

    words = ["track", str(bundle), str(folder), "--point", "40,30", "--scores", str(tmp_path / "s.jsonl")]
    refused(CliRunner().invoke(program.app, [*words, "--provider", "npu"]), "provider 'npu' is not known")
    result = CliRunner().invoke(program.app, [*words, "--provider", "cpu", "--max-frames", "1"])
    assert result.exit_code == 0, result.exception


# --- what commands print ---


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("efficienttam_ti_512x512-fp32", "export --model efficienttam_ti_512x512 --output"),
        ("efficienttam_s_2-int8", "export --model efficienttam_s_2 --precision int8 --output"),
        ("mine", "export --model MODEL --output"),
    ],
)
def test_advice_for_a_missing_bundle_names_the_model(name: str, command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(program.app, ["inspect", str(tmp_path / name)])
    assert f"etam-edge {command} {tmp_path / name}" in str(result.exception)


def test_inspect_is_readable_on_80_columns(bundle: Path) -> None:
    from etam_edge.recipe import REGIONS

    text = CliRunner().invoke(program.app, ["inspect", str(bundle)], env={"COLUMNS": "80"}).output
    assert "windows at the border: " in text
    assert re.search(r"^model: +small", text, re.MULTILINE)
    for region in REGIONS:
        assert f" {region} " in text


def test_models_without_pytorch_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from etam_edge.workflows import models

    find = models.find_spec
    monkeypatch.setattr(models, "find_spec", lambda name: None if name in ("torch", "onnx") else find(name))
    text = CliRunner().invoke(program.app, ["models"], env={"COLUMNS": "200"}).output
    assert "Exporting needs PyTorch and onnx, not installed here" in text
    assert 'next: pip install "etam-edge[export]"' in text
    assert "next: etam-edge export" not in text


@pytest.mark.parametrize("command", ["check", "demo"])
def test_a_busy_machine_is_said_before_times_are_measured(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from etam_edge.benchmark import machine

    monkeypatch.setattr(machine, "load", lambda: 99.0)
    arguments = ["nowhere", "--reference", "nowhere", "--clips", "nowhere"] if command == "check" else []

    def stop(*_: Any) -> None:
        raise RuntimeUnavailableError("the demo itself is not run here")

    monkeypatch.setattr("etam_edge.workflows.demo.prepare_demo", stop)
    result = CliRunner().invoke(program.app, [command, *arguments])
    assert "warning: the machine was busy when this began (a load of 99.0 on" in result.output


def test_sensitivity_without_matplotlib_gives_figures(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from etam_edge.evaluation.sensitivity import RegionCost
    from etam_edge.workflows import sensitivity

    cost = RegionCost("neck", "int8", None, 0.9, 0.8, 1, 2, 0, 4.0, 5.0, "a CPU", None)
    monkeypatch.setattr(sensitivity, "Conversion", lambda *_, **__: nullcontext())
    monkeypatch.setattr(sensitivity, "measure_costs", lambda *_: [cost])
    monkeypatch.setattr(sensitivity, "load_clips", lambda *_: [])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["sensitivity", str(bundle), "--clips", str(folder), "--output", str(tmp_path / "out")]
    for _ in range(2):
        result = CliRunner().invoke(program.app, words)
        assert result.exit_code == 0, result.exception
        assert "figures are written without plots" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["history", "sensitivity.json"]
    assert json.loads((tmp_path / "out" / "sensitivity.json").read_text())[0]["region"] == "neck"
