"""The self-test: whole on the simulated GPU and on the CPU, with what it must notice; and its parts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from typer.testing import CliRunner, Result

import etam_edge
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import FOLDER, Sidecar, built_for, engine_path
from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.machine_test.answers import (
    TOLERANCES,
    Answers,
    Difference,
    FrameAnswer,
    compare_graphs,
    compare_streams,
    relative_error,
    sample,
)
from etam_edge.machine_test.graph_inputs import graph_inputs
from etam_edge.machine_test.scene import FRAMES, SHAPE, ball, box, frame
from etam_edge.machine_test.steps import Settings, Steps
from etam_edge.machine_test.supervise import Step, run_steps
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.spec import Pooling
from etam_edge.workflows.selftest import PLAIN
from etam_edge_testing.refusals import refused

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--frames", 3)


@pytest.fixture(scope="module")
def bundle(small_bundle: SmallBundleMaker, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path_factory.mktemp("selftest") / "small")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Processes that are started find TensorRT and a GPU: `simulated(TENSORRT="8.6.1", FAULTS="crash-track")`."""
    pytest.importorskip("onnx")

    def put(**variables: str) -> None:
        packages = ROOT / "etam_edge_testing" / "simulated_packages"
        monkeypatch.setenv("PYTHONPATH", f"{packages}:{ROOT}")
        for name, value in variables.items():
            monkeypatch.setenv(f"SIMULATED_{name}", value)

    return put


def run(bundle: Bundle, output: Path, *arguments: object) -> Result:
    words = ["selftest", str(bundle.path), "--output", str(output), *map(str, arguments)]
    return CliRunner().invoke(app, words, env={"COLUMNS": "250"})


def settings_for(bundle: Bundle) -> Settings:
    return Settings(
        bundle=str(bundle.path),
        folder="",
        runtime="auto",
        provider="auto",
        device=None,
        threads=None,
        own_engines=False,
        max_objects=1,
        workspace=1 << 30,
        optimization_level=None,
        external_tactics=True,
        frames=1,
        against="",
        write_answers="",
    )


def steps_of(output: Path) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in json.loads((output / "selftest.json").read_text())["steps"]}


def statuses(output: Path) -> dict[str, str]:
    return {name: step["status"] for name, step in steps_of(output).items()}


@pytest.fixture(scope="module")
def answers(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of ONNX Runtime, written by the command on a machine without a GPU."""
    folder = tmp_path_factory.mktemp("answers")
    result = run(bundle, folder / "out", "--runtime", "onnxruntime", "--write-answers", folder / "a.npz", *QUICK)
    assert result.exit_code == 0, result.output
    found = statuses(folder / "out")
    graphs = [f"graph {name}" for name in GRAPH_NAMES]
    assert list(found) == ["machine", "bundle", "load", *graphs, "answers", "resume", "sessions", "time"]
    assert set(found.values()) == {"passed"}
    assert "answer the same bit for bit" in " ".join(result.output.split())
    return folder / "a.npz"


def test_tensorrt_answers_as_onnx_runtime_did(
    bundle: Bundle, answers: Path, simulated: Callable[..., None], tmp_path: Path
) -> None:
    simulated()
    tested = bundle.copy_to(tmp_path / "robot")
    result = run(tested, tmp_path / "out", "--against", answers, "--keep-engines", "--optimization-level", 1, *QUICK)
    assert result.exit_code == 0, result.output
    found = steps_of(tmp_path / "out")
    assert {step["status"] for step in found.values()} == {"passed"}
    assert {"cuda", "parse", "build track", "graph track", PLAIN} < set(found)
    assert found["answers"]["values"]["compared"] == FRAMES + FRAMES - 3
    assert found["answers"]["values"]["logits"] == 0, "the simulated engines run in ONNX Runtime"
    assert found["time"]["values"]["milliseconds"]["p50"] > 0
    memory = found["time"]["values"]["memory"]
    assert set(memory) == {"50", "103"}
    assert memory["50"]["GPU"] == memory["103"]["GPU"] > 0
    table = (tmp_path / "out" / "selftest.md").read_text()
    assert "in tensorrt: passed" in table
    assert all(f"\n| {name} | passed |" in table for name in found)
    # The engines are now the bundle's own, and are tested as they are.
    [platform] = built_for(tested)
    objects = {
        name: Sidecar.load(engine_path(tested, platform, name).with_suffix(".json")).max_objects for name in GRAPH_NAMES
    }
    assert objects == {"encode": 2, "prompt": 2, "remember": 1, "track": 2}
    settings = settings_for(tested)
    [machine] = run_steps([Step("machine", 120)], settings)
    assert machine.values["engines"] is True


@pytest.mark.full
@pytest.mark.parametrize("precision", [FP16, INT8])
def test_tensorrt_8_6_without_cublas(
    precision: str, bundle: Bundle, simulated: Callable[..., None], tmp_path: Path
) -> None:
    """Weakly typed, on a machine whose cuBLAS and cuDNN are missing: what is rounded stays within the tolerance."""
    from etam_edge.calibration.qdq import QdqQuantizer
    from etam_edge.exporters.precision import derive_bundle
    from etam_edge_testing.made_up_ranges import made_up_ranges

    quantize = QdqQuantizer(made_up_ranges())
    half = derive_bundle(bundle, tmp_path / "half", Recipe.default(precision), precision, {}, quantize)
    against = tmp_path / "a.npz"
    assert run(half, tmp_path / "o", "--runtime", "onnxruntime", "--write-answers", against, *QUICK).exit_code == 0
    simulated(TENSORRT="8.6.1", FAULTS="no-libraries", GPU="orin")
    result = run(half, tmp_path / "out", "--against", against, *QUICK)
    assert result.exit_code == 1
    found = steps_of(tmp_path / "out")
    assert found["build encode"]["status"] == "failed"
    assert "initializing cublas failed" in found["build encode"]["text"]
    assert found["load"] == {**found["load"], "status": "skipped", "text": "needs the step 'build encode'"}
    assert "fp16 constants are reported as FLOAT" in found["parse"]["text"]

    result = run(half, tmp_path / "out", "--against", against, "--no-external-tactics", *QUICK)
    assert result.exit_code == 0, result.output
    values = steps_of(tmp_path / "out")["answers"]["values"]
    assert 0 < values["logits"] < TOLERANCES[precision].error, "rounded to fp16 after every operation"


def test_what_breaks_is_reported_and_the_rest_still_runs(
    bundle: Bundle, answers: Path, simulated: Callable[..., None], tmp_path: Path
) -> None:
    simulated(FAULTS="crash-track,wrong-encode")
    result = run(bundle, tmp_path, "--against", answers, *QUICK)
    assert result.exit_code == 1
    found = steps_of(tmp_path)
    assert found["build track"]["status"] == "crashed"
    assert "ended with SIGABRT" in found["build track"]["text"]
    assert any("Fatal Python error: Aborted" in line for line in found["build track"]["values"]["stderr"])
    assert found["graph encode"]["status"] == "failed"
    assert "allowed are 0.01" in found["graph encode"]["text"]
    assert found["graph remember"]["status"] == found["graph prompt"]["status"] == "passed"
    assert found["graph track"]["status"] == found["answers"]["status"] == "skipped"
    assert not (bundle.path / FOLDER).exists(), "the bundle stays as it was"


def test_wrong_answers_fail_the_test(bundle: Bundle, answers: Path, tmp_path: Path) -> None:
    stored = Answers.load(answers)
    place = (7, 1)
    one = stored.frames[place]
    stored.frames[place] = FrameAnswer(one.mask, one.mask_logits * 1.1, one.pointer, one.score)
    stored.save(tmp_path / "other.npz")
    result = etam_edge.selftest(bundle, runtime="onnxruntime", against=tmp_path / "other.npz", frames=1)
    assert not result.passed
    assert result.files == ()
    [failed] = [step for step in result.steps if step.status != "passed"]
    assert failed.name == "answers"
    assert "(frame 7)" in failed.text


def test_a_runtime_that_is_not_here_is_the_only_step(bundle: Bundle, tmp_path: Path) -> None:
    result = run(bundle, tmp_path / "out", "--runtime", "tensorrt")
    [step] = steps_of(tmp_path / "out").values()
    if step["status"] == "passed":
        pytest.skip("TensorRT and a GPU are here")
    assert result.exit_code == 1
    assert "is not installed" in step["text"] or "no NVIDIA driver" in step["text"]


def test_auto_falls_back_to_onnx_runtime_and_says_why(bundle: Bundle) -> None:
    settings = settings_for(bundle)
    found = Steps(settings).run("machine")
    if found.values["runtime"] == "tensorrt":
        pytest.skip("TensorRT and a GPU are here")
    assert found.passed
    assert found.values["runtime"] == "onnxruntime"
    assert found.text.startswith("onnxruntime; not TensorRT: ")


def test_a_step_that_takes_too_long_is_ended(bundle: Bundle) -> None:
    settings = settings_for(bundle)
    steps = [Step("machine", 0.001), Step("bundle", 60, needs=("machine",))]
    first, second = run_steps(steps, settings)
    assert (first.status, first.text) == ("timed out", "did not end within 0.001 s")
    assert (second.status, second.text) == ("skipped", "needs the step 'machine'")
    [late] = run_steps([Step("bundle", 60)], settings_for(bundle), end=0.0)
    assert (late.status, late.text) == ("skipped", "no time is left")


def test_wrong_calls_are_refused(bundle: Bundle, answers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(run(bundle, out, "--against", tmp_path / "none"), "there are no answers at --against")
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    refused(run(bundle, out, "--against", tmp_path / "damaged.npz"), "holds no answers, or is damaged")
    stored = Answers.load(answers)
    Answers({**stored.about, "bundle": "another"}).save(tmp_path / "other.npz")
    refused(run(bundle, out, "--against", tmp_path / "other.npz"), "holds answers of another bundle")
    refused(run(bundle, out, "--limit", "build"), "--limit build is not of the form STEP=SECONDS")
    refused(run(bundle, out, "--limit", "fly=3"), "--limit fly names no step; steps: machine, bundle")
    refused(run(bundle, out, "--limit", "build=0"), "is no time")
    refused(run(bundle, out, "--time-limit", 0), "--time-limit 0 is no time")
    refused(run(bundle, out, "--frames", 0), "--frames 0 times nothing")
    refused(run(bundle, out, "--runtime", "tensorflow"), "--runtime tensorflow is not known")
    refused(run(bundle, out, "--optimization-level", 6), "--optimization-level 6 is none of TensorRT's")
    assert not out.exists()


def test_the_child_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; import etam_edge.machine_test.child, etam_edge.exporters.tensorrt.engine_set; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'cv2', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


# --- parts ---


def test_the_stream_is_the_same_on_every_machine() -> None:
    """Stored answers are for these very pixels."""
    digest = hashlib.sha256()
    for index in (0, 3, 11, 300):
        digest.update(frame(index).tobytes())
    assert digest.hexdigest() == "5fec7a4f6ba669797c813347f1bbbc8b304d4ea70cc84174b2147e27bfd92a08"
    assert frame(0, (1080, 1920)).shape == (1080, 1920, 3)
    (left, top, right, bottom), (x, y) = box(SHAPE), ball(0, SHAPE)
    assert 0 < left < right < SHAPE[1]
    assert 0 < top < bottom < SHAPE[0]
    assert frame(0)[y, x, 0] > 200, "the click is on the ball"


def test_inputs_of_graphs_are_the_same_on_every_machine(bundle: Bundle) -> None:
    manifest = bundle.manifest
    found = {name: graph_inputs(entry.signature, manifest.model, objects=2) for name, entry in manifest.graphs.items()}
    assert float(found["track"]["bank_keys"].ravel()[0]) == pytest.approx(0.1537365, abs=1e-6)
    codes = found["track"]["time_codes"]
    assert (codes.min(), codes.max()) == (0, manifest.model.memory_frames)
    assert found["prompt"]["labels"][0].tolist() == [2, 3, -2, -2, -2, -2]
    for name, entry in manifest.graphs.items():
        for tensor in entry.signature.inputs:
            value = found[name][tensor.name]
            assert (value.shape, value.dtype.name) == (tensor.sized(2), tensor.dtype)


def test_comparison_of_streams() -> None:
    logits, mask, pointer = np.full((4, 4), 2.0, np.float32), np.ones((10, 10), bool), np.ones(8, np.float32)
    wanted = {(index, 1): FrameAnswer(mask, logits, pointer, 1.0) for index in range(3)}
    moved = mask.copy()
    moved[0] = False
    found = {**wanted, (1, 1): FrameAnswer(moved, logits * 1.04, pointer * 0.97, -1.0), (2, 2): wanted[0, 1]}
    difference = compare_streams(found, wanted)
    assert difference.logits == pytest.approx(0.04)
    assert difference.pointers == pytest.approx(0.03)
    assert (difference.agreement, difference.flips, difference.worst, difference.compared) == (0.9, 1, 1, 3)
    assert "1 times visible in one only" in str(difference)
    with pytest.raises(InputError, match="no frame in common"):
        compare_streams({(9, 9): wanted[0, 1]}, wanted)


@pytest.mark.parametrize("worse", ["logits", "pointers", "agreement", "flips"])
def test_each_measure_counts(worse: str) -> None:
    tolerance = TOLERANCES[FP32]
    good: dict[str, Any] = {"logits": 0.01, "pointers": 0.01, "agreement": 0.999, "flips": 0}
    good |= {"worst": 0, "compared": 1}
    assert Difference(**good).within(tolerance)
    bad = {"logits": 0.011, "pointers": 0.011, "agreement": 0.998, "flips": 1}[worse]
    assert not Difference(**{**good, worse: bad}).within(tolerance)


def test_not_a_number_is_not_within_any_tolerance() -> None:
    wanted = np.ones(3, np.float32)
    assert not relative_error(wanted * np.nan, wanted) <= 1e9
    for logits, pointers in ((np.nan, 0.0), (0.0, np.nan)):
        difference = Difference(logits, pointers, agreement=1.0, flips=0, worst=0, compared=1)
        assert not difference.within(TOLERANCES[INT8])


def test_graphs_are_compared_over_the_objects_that_both_have() -> None:
    value = np.random.default_rng(1).standard_normal((2, 9000)).astype(np.float32)
    both, one = sample(value), sample(value[:1])
    assert both.shape == (2, 3000)
    assert compare_graphs({"y": one}, {"y": both}) == {"y": 0.0}
