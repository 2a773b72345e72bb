"""`etam-edge bench`, driven as a user would drive it: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner, Result

from etam_edge.benchmark import matrix_speed
from etam_edge.benchmark.stages import OTHER, STAGES
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import TENSORRT
from etam_edge.cli.app import app
from etam_edge.runtimes.backends.tensorrt import backend as tensorrt_backend
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here
from etam_edge.spec import Pooling
from etam_edge_testing import refusals
from etam_edge_testing.simulated import A100, SimulatedCuda, simulated_tensorrt, write_simulated_engines
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")

SHORT = ("--frames", 30, "--warm-up", 17)
TIMING = {"p50", "p95", "p99", "minimum", "frames"}


@pytest.fixture
def bundle(small_bundle: SmallBundleMaker) -> Path:
    return small_bundle(Pooling.SCORE_BIAS)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_speed, "SIDE", 64)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def run(bundle: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", str(bundle), "--threads", "1", *map(str, arguments)])


def refused(result: Result, sentence: str) -> None:
    """Before anything is written."""
    refusals.refused(result, sentence)
    assert not list(Path().rglob("bench.json"))


def figures(folder: Path) -> dict[str, Any]:
    """The JSON of a run, beside whose plots nothing lies but what earlier runs wrote."""
    found_names = {path.name for path in folder.iterdir()} - {"history"}
    assert found_names == {"bench.json", "latency.png", "stages.png"}
    for name in ("latency.png", "stages.png"):
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200

    def no_number(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    found: dict[str, Any] = json.loads((folder / "bench.json").read_text(), parse_constant=no_number)
    return found


def test_a_bundle_alone(bundle: Path) -> None:
    result = run(bundle, "--objects", "1,3", *SHORT)
    assert result.exit_code == 0, result.output
    folder = Path("out/bench") / bundle.name
    found = figures(folder)
    assert found["schema"] == 1
    assert (found["frames"], found["warm_up"], found["threads"]) == (30, 17, 1)
    assert found["source"] == {"name": "drawn", "width": 320, "height": 240, "decoded": False}
    assert found["command"] == f"etam-edge bench {bundle} --objects 1,3 --frames 30 --warm-up 17 --threads 1"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert {"numpy", "onnxruntime"} <= found["versions"].keys()
    assert {"power_mode", "governor", "created", "etam_edge"} <= found.keys()
    assert {"load_before", "load_after", "pace_before", "pace_after", "warnings"} == found["noise"].keys()
    [side] = found["sides"]
    assert side["identity"] == Bundle.load(bundle).identity
    assert (side["name"], side["runtime"], side["precision"]) == (bundle.name, "onnxruntime (cpu)", "fp32")
    assert side["load"] > 0
    assert [one["objects"] for one in found["runs"]] == [1, 3]
    for one in found["runs"]:
        assert one["decode"] is one["ratio"] is None
        [measured] = one["sides"]
        assert len(measured["milliseconds"]) == 30
        assert measured["whole"].keys() == TIMING
        assert measured["whole"]["frames"] == 13
        assert measured["whole"]["p50"] == pytest.approx(np.median(measured["milliseconds"][17:]), abs=1e-3)
        assert measured["first_frame"] == measured["milliseconds"][0]
        assert measured["drift"] > 0
        stages = measured["stages"]
        assert list(stages["stages"]) == [*STAGES, OTHER]
        assert all(timing.keys() == TIMING for timing in stages["stages"].values())
        assert one["memory"]["resident_at_end"] > 0
        assert one["memory"]["growth"] == one["memory"]["resident_at_end"] - one["memory"]["resident_after_warm_up"]
    for word in ("whole frames, 320 x 240 pixels", "encode", "masks", "other", "drift", "memory:", "machine:"):
        assert word in result.output
    for warning in found["noise"]["warnings"]:
        assert f"warning: {warning}" in result.output
    assert str(folder / "stages.png") in result.output
    assert f"next: etam-edge bench {bundle} --against BUNDLE" in result.output
    # The same call again takes the place of what it wrote, which is kept.
    assert run(bundle, "--objects", "1", *SHORT).exit_code == 0
    assert len(figures(folder)["runs"]) == 1
    [earlier] = (folder / "history").iterdir()
    assert len(figures(earlier)["runs"]) == 2


def test_against_itself_on_a_folder_of_images(bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "film [red]"
    source.mkdir()
    for index in range(4):
        Image.fromarray(clip_frame(index, 60, 80)).save(source / f"{index}.png")
    result = run(bundle, "--objects", 2, "--against", bundle, "--source", source, "--output", "there", *SHORT)
    assert result.exit_code == 0, result.output
    found = figures(Path("there"))
    assert found["source"] == {"name": "film [red]", "width": 80, "height": 60, "decoded": True}
    names = [bundle.name, f"{bundle.name} (against)"]
    assert [side["name"] for side in found["sides"]] == names
    [one] = found["runs"]
    assert [side["side"] for side in one["sides"]] == names
    assert all(side["stages"] for side in one["sides"])
    assert one["decode"]["frames"] == 13
    ratio = one["ratio"]
    assert 0 < ratio["low"] <= ratio["of_medians"] <= ratio["high"]
    assert "ratio, 2 objects" in result.output
    assert "decode, before" in result.output
    assert f"next: etam-edge check {bundle} --reference {bundle} --clips CLIPS" in result.output


def test_against_torch(bundle: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from etam_edge_testing.small import small_model

    refused(run(bundle, "--against", "torch", *SHORT), "--against torch needs the checkpoint that")
    checkpoint = tmp_path / "small.pt"
    torch.save({"model": small_model(Pooling.SCORE_BIAS).state_dict()}, checkpoint)
    threads = torch.get_num_threads()
    try:
        result = run(bundle, "--against", "torch", "--checkpoint", checkpoint, "--objects", 1, *SHORT)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "was not exported from" in result.output
    found = figures(Path("out/bench") / bundle.name)
    assert found["sides"][1]["name"] == "torch"
    assert found["sides"][1]["runtime"] == f"torch {torch.__version__} (cpu)"
    [one] = found["runs"]
    assert one["sides"][1]["stages"] is one["sides"][1]["session_memory"] is None
    assert one["ratio"]["of_medians"] > 0
    assert f"next: etam-edge track {bundle} VIDEO" in result.output


def test_engines(small_bundle: SmallBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "robot")
    cuda = SimulatedCuda(A100)
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(robot, platform_here(TENSORRT, trt, cuda.gpu), 2)
    monkeypatch.setattr(tensorrt_backend, "import_tensorrt", lambda flavour=TENSORRT: trt)
    monkeypatch.setattr(tensorrt_backend, "open_cuda", lambda index=0: cuda)
    options = ("--runtime", "tensorrt", "--against", robot.path, "--against-runtime", "onnxruntime", *SHORT)
    refused(run(robot.path, "--objects", "1,3", *options), "3 objects are more than the engines of")
    result = run(robot.path, "--objects", "2", *options)
    assert result.exit_code == 0, result.output
    found = figures(Path("out/bench/robot"))
    assert [side["runtime"] for side in found["sides"]] == [
        "tensorrt 10.3.0 (NVIDIA A100-SXM4-40GB)",
        "onnxruntime (cpu)",
    ]
    assert found["command"].endswith("--runtime tensorrt --against-runtime onnxruntime --threads 1")
    assert all(side["stages"]["stages"]["track"]["p50"] > 0 for side in found["runs"][0]["sides"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--objects", "0"), "--objects 0 is not a list of numbers from 1 to 64; give numbers like 1,2,4"),
        (("--objects", "1,,2"), "--objects 1,,2 is not a list of numbers"),
        (("--objects", "1,many"), "--objects 1,many is not a list of numbers"),
        (("--objects", "65"), "--objects 65 is not a list of numbers"),
        (("--objects", "2,1,2"), "--objects 2,1,2 has a number twice"),
        (("--frames", 25), "25 frames leave 5 after a warm-up of 20"),
        (("--frames", 10), "10 frames leave 0 after a warm-up of 20"),
        (("--warm-up", 16), "a warm-up of 16 frames ends before the memory is full"),
        (("--source", "nowhere"), "there is nothing at nowhere"),
        (("--source", "0"), "--source 0 is a camera"),
        (("--frame-size", "big"), "--frame-size big is not a size; give one like 1280x720"),
        (("--frame-size", "4x4"), "a frame size of 4 x 4 pixels is out of range"),
        (("--frame-size", "64x64", "--source", "film"), "give one of them"),
        (("--checkpoint", "x.pt"), "--checkpoint is for --against torch"),
        (("--against", "nowhere"), "--against: there is no bundle at nowhere"),
        (("--against-runtime", "onnxruntime"), "--against-runtime and --against-provider are for --against BUNDLE"),
        (("--runtime", "abacus"), "runtime 'abacus' is not known"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[object, ...], sentence: str, bundle: Path) -> None:
    refused(run(bundle, *arguments), sentence)


def test_a_place_that_cannot_be_written_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(run(bundle, "--output", tmp_path / "file"), "is a file; name a folder for --output")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").touch()
    refused(run(bundle, "--output", tmp_path / "photos"), "is a folder with other files in it")


def test_a_bundle_that_is_not_there_or_damaged(bundle: Path, tmp_path: Path) -> None:
    refused(run(tmp_path / "nothing"), "there is no bundle at")
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "graphs" / "encode.onnx").write_bytes(b"")
    refused(run(damaged), "encode.onnx")


def test_without_matplotlib_there_are_figures_and_no_plots(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a second run take the place of the first ones, which are kept."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for _ in range(2):
        result = run(bundle, "--objects", 1, *SHORT)
        assert result.exit_code == 0, result.output
        assert 'pip install "etam-edge[check]"; figures are written without plots' in result.output
    folder = Path("out/bench") / bundle.name
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "history"]
    [earlier] = (folder / "history").iterdir()
    before, after = (json.loads((place / "bench.json").read_text()) for place in (earlier, folder))
    assert before["runs"] != after["runs"]


def test_busy_threads_and_matrix_speed(bundle: Path) -> None:
    result = run(bundle, "--objects", 2, *SHORT, "--busy", 1)
    assert result.exit_code == 0, result.output
    found = figures(Path("out/bench") / bundle.name)
    assert found["busy"] == 1
    assert found["command"].endswith("--threads 1 --busy 1")
    [side] = found["sides"]
    assert side["threads"] == "1; spinning: never"
    assert side["matrix_gflops"] > 0
    assert set(side["operations"]) == {"encode", "track"}
    gflop = (side["operations"]["encode"] + 2 * side["operations"]["track"]) / 1e9
    said = " ".join(result.output.split())
    assert f"2 objects: a frame multiplies {gflop:.1f} GFLOP" in said
    assert "threads: " in said
    assert "measured beside 1 processes that sort 200,000 fixed 64-bit integers" in said


def test_a_background_load_that_is_not_possible_is_refused(bundle: Path) -> None:
    refused(run(bundle, "--busy", -1), "-1 busy processes are not possible; give a number from 0 to 256")
