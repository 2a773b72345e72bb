"""What only a GPU can tell beside the self-test: a golden, ground-truth masks, sessions that change the runtime.

Every test runs twice. On the GPU it is marked `gpu`, and skipped with a reason where there is none. On the simulated
GPU it may be shorter, and says only that the test itself works: engines are ONNX Runtime there, rounding fp16 as a GPU
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BundleMaker, SmallBundleMaker
from typer.testing import CliRunner

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import TENSORRT
from etam_edge.cli.app import app
from etam_edge.errors import RuntimeUnavailableError
from etam_edge.machine_test.answers import TOLERANCES, relative_error
from etam_edge.recipe import FP16, FP32, INT8, Recipe
from etam_edge.runtimes.backends.cuda.open import open_cuda
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt
from etam_edge.spec import Pooling
from etam_edge_testing.davis import write_crossing
from etam_edge_testing.golden_runs import ScenarioOutputs, session_outputs
from etam_edge_testing.goldens import GOLDENS, Golden
from etam_edge_testing.simulated import SimulatedCuda, simulated_tensorrt
from etam_edge_testing.small import clip_frame

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")


from etam_edge.exporters.precision import derive_bundle  # noqa: E402
from etam_edge_testing.simulated_builder import add_builder  # noqa: E402

MAX_OBJECTS = 3
CLIP_FRAMES = 22
GOLDEN_ERROR = 0.01
"""Relative error of mask logits. Rounding to fp16 after every operation, on a CPU, moves them by 0.0024."""

Build = Callable[[Path], Path]


@pytest.fixture(scope="module", params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the GPU that is used: the one that is here, or the simulated one."""
    if request.param == "gpu":
        yield _find_gpu().gpu.name
        return
    cuda = SimulatedCuda()
    with pytest.MonkeyPatch.context() as patch:
        _simulate(cuda, patch)
        yield cuda.gpu.name


def _find_gpu() -> Any:
    """The GPU, or the test is skipped; all that is missing is said."""
    missing: list[str] = []
    cuda = None
    try:
        cuda = open_cuda()
    except RuntimeUnavailableError as error:
        missing.append(str(error))
    try:
        import_tensorrt()
    except RuntimeUnavailableError as error:
        missing.append(str(error))
    if missing:
        pytest.skip("; and ".join(missing))
    return cuda


def _simulate(cuda: SimulatedCuda, patch: pytest.MonkeyPatch) -> None:
    """The simulated GPU is the one that is here, and its TensorRT builds."""
    trt: Any = simulated_tensorrt(cuda)
    add_builder(trt, cuda)
    for module in ("tensorrt_module", "backend"):
        patch.setattr(f"etam_edge.runtimes.backends.tensorrt.{module}.import_tensorrt", lambda flavour=TENSORRT: trt)
    for module in ("etam_edge.runtimes.backends.cuda.open", "etam_edge.runtimes.backends.tensorrt.backend"):
        patch.setattr(f"{module}.open_cuda", lambda index=0: cuda)


@pytest.fixture(scope="module")
def build(machine: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Copies of bundles with engines of this machine, built once each by the command."""
    made: dict[Path, Path] = {}

    def make(bundle: Path) -> Path:
        if bundle not in made:
            path = tmp_path_factory.mktemp("engines") / bundle.name
            Bundle.load(bundle).copy_to(path)
            assert "4 engines" in done("build", path, "--max-objects", MAX_OBJECTS)
            made[bundle] = path
        return made[bundle]

    return make


def done(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "HF_HUB_OFFLINE": "1"})
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


# --- bundles: tests name them after `build`, so that none is made where there is no GPU ---


@pytest.fixture(scope="module")
def small(small_bundle: SmallBundleMaker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small model by precision."""
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    half = derive_bundle(source, tmp_path_factory.mktemp("small") / FP16, Recipe.default(FP16), FP16, {})
    return {FP32: source.path, FP16: half.path}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn clip's first frames in DAVIS layout: a ball and a box."""
    root = tmp_path_factory.mktemp("clips")
    write_crossing(root, CLIP_FRAMES)
    return root


@pytest.fixture(scope="module")
def nano(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """etam_nano by precision, calibrated on the drawn clip."""
    folder = tmp_path_factory.mktemp("nano")
    paths = {precision: folder / precision for precision in (FP32, FP16, INT8)}
    done("export", "--output", paths[FP32])
    done("record", paths[FP32], clips, "--output", folder / "recording", "--samples", 12)
    for precision in (FP16, INT8):
        calibration = ("--calibration", folder / "recording")
        done("export", "--precision", precision, *calibration, "--output", paths[precision])
    return paths


# --- what engines answer ---


def play(session: Session, start: int, stop: int) -> list[FrameResult]:
    """Frames of a stream in which an object comes late and another is corrected."""
    results = []
    for index in range(start, stop):
        prompts = {0: {1: Prompt(points=[(64, 88)], labels=[1])}, 3: {2: Prompt(box=(20, 30, 90, 100))}}.get(index)
        results.append(session.track(clip_frame(index), prompts=prompts))
        if index == 5:
            results[-1] = session.refine(2, Prompt(points=[(100, 20)], labels=[0]))
    return results


def check_close(results: list[FrameResult], expected: list[FrameResult], precision: str) -> None:
    """Mask logits by their error over their root mean square, masks by the share of pixels that agree."""
    errors, agreements = [], []
    for result, wanted in zip(results, expected, strict=True):
        assert (result.frame_index, result.object_ids) == (wanted.frame_index, wanted.object_ids)
        errors.append(relative_error(result.mask_logits, wanted.mask_logits))
        agreements.append(float(np.mean(result.masks == wanted.masks)))
    print(f"{precision}: logit error up to {max(errors):.2g}, mask agreement down to {min(agreements):.4f}")
    assert max(errors) <= TOLERANCES[precision].error, errors
    assert min(agreements) >= TOLERANCES[precision].agreement, agreements


@pytest.mark.full
def test_fp16_engine_keeps_a_golden(seeded_bundle: BundleMaker, build: Build, tmp_path: Path) -> None:
    [golden] = [golden for golden in GOLDENS if golden.id == "efficienttam_ti_512x512.seed11.point"]
    source = Bundle.load(seeded_bundle(*golden.weights_id))
    half = derive_bundle(source, tmp_path / "fp16", Recipe.default(FP16), FP16, {})
    error, agreement = golden_difference(golden, session_outputs(golden, Tracker.load(build(half.path), "tensorrt")))
    print(f"{golden.id}: logit error up to {error:.2g}, mask agreement down to {agreement:.4f}")
    assert error <= GOLDEN_ERROR
    assert agreement >= TOLERANCES[FP16].agreement


def golden_difference(golden: Golden, answers: ScenarioOutputs) -> tuple[float, float]:
    """Largest relative error of mask logits and smallest agreement of masks, over objects and frames."""
    errors, agreements = [], []
    with np.load(golden.path) as arrays:
        assert len(answers) == len({key.rsplit("/", 1)[0] for key in arrays.files})
        for (object_id, frame_index), answer in answers.items():
            place = f"obj{object_id}/frame{frame_index:03d}"
            errors.append(relative_error(answer.mask_logits[::5, ::5], arrays[f"{place}/mask_logits_every5"]))
            bits = np.unpackbits(np.packbits(answer.mask_logits > 0) ^ arrays[f"{place}/mask_bits"])
            agreements.append(1 - float(bits.sum()) / answer.mask_logits.size)
    return max(errors), min(agreements)


@pytest.mark.full
@pytest.mark.parametrize("precision", [FP16, INT8])
def test_check_of_engines_against_fp32(
    precision: str, build: Build, nano: dict[str, Path], clips: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    candidate = (build(nano[precision]), "--runtime", "tensorrt")
    reference = ("--reference", nano[FP32], "--reference-runtime", "onnxruntime", "--reference-provider", "cpu")
    output = done("check", *candidate, *reference, "--clips", clips, "--max-drop", 1, "--output", tmp_path / "check")
    assert "passed: J&F" in output


# --- streams ---


@pytest.mark.full
def test_sessions_go_on_in_another_runtime(build: Build, small: dict[str, Path], tmp_path: Path) -> None:
    """What was saved in one runtime goes on in the other; in the same one bit for bit."""
    path = build(small[FP16])
    trackers = {"tensorrt": Tracker.load(path, "tensorrt")}
    trackers["onnxruntime"] = Tracker.load(path, "onnxruntime", provider="cpu", threads=1)
    for name, tracker in trackers.items():
        session = tracker.start_session()
        play(session, 0, 7)
        session.save(tmp_path / name)
        expected = play(session, 7, 11)
        for other, resuming in trackers.items():
            results = play(resuming.resume_session(tmp_path / name), 7, 11)
            if other != name:
                check_close(results, expected, FP16)
                continue
            for result, wanted in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result.mask_logits, wanted.mask_logits)
                np.testing.assert_array_equal(result.object_scores, wanted.object_scores)


def test_engines_are_built_again_only_when_asked(build: Build, small: dict[str, Path]) -> None:
    path = build(small[FP32])
    refused = CliRunner().invoke(app, ["build", str(path)])
    assert "--overwrite" in str(refused.exception)
    assert "4 engines" in done("build", path, "--max-objects", MAX_OBJECTS, "--overwrite")
