"""benchmarks/gpu_figures.py without a GPU: what it measures on a simulated one, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.bundle import MANIFEST, Bundle
from etam_edge.bundle.engines import TENSORRT
from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here
from etam_edge.spec import Pooling
from etam_edge_testing.manifests import write_manifest
from etam_edge_testing.simulated import SimulatedCuda, simulated_tensorrt, write_simulated_engines
from etam_edge_testing.small import PREBUILT, clip_frame, small_model

pytest.importorskip("onnxruntime")


from benchmarks import gpu_figures
from benchmarks.gpu_figures import STAGES, EngineRunner, TorchRunner

WIDTH, HEIGHT = 160, 120
FRAMES = [clip_frame(index, HEIGHT, WIDTH) for index in range(4)]
COUNT = 3
TrackerMaker = Callable[[], Tracker]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    monkeypatch.setattr(gpu_figures, "WARM_UP", 4)
    return SimulatedCuda()


@pytest.fixture
def make_tracker(cuda: SimulatedCuda, small_bundle: SmallBundleMaker, tmp_path: Path) -> TrackerMaker:
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "robot")
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(bundle, platform_here(TENSORRT, trt, cuda.gpu))
    return lambda: Tracker(bundle, TensorRTBackend(bundle, cuda, trt))


def test_whole_frames_of_engines(make_tracker: TrackerMaker) -> None:
    runners = {name: EngineRunner(make_tracker()) for name in ("fp16", "int8")}
    times = gpu_figures.whole_frames(runners, FRAMES, COUNT)
    assert {name: len(values) for name, values in times.items()} == {"fp16": COUNT, "int8": COUNT}
    assert min(min(values) for values in times.values()) > 0
    for runner in runners.values():
        runner.close()


def test_stages_add_up_and_change_no_answer(make_tracker: TrackerMaker) -> None:
    """Every counted frame has every stage once; a staged runner draws the mask that a session does."""
    runner = EngineRunner(make_tracker(), staged=True)
    parts = gpu_figures.stages({"fp16": runner}, FRAMES, COUNT)
    assert {stage: len(values) for stage, values in parts["fp16"].items()} == dict.fromkeys(STAGES, COUNT)
    assert all(value > 0 for values in parts["fp16"].values() for value in values)

    session = make_tracker().start_session(max_objects=1)
    click = Prompt(points=[(0.25 * WIDTH, 0.6 * HEIGHT)], labels=[1])
    again = EngineRunner(make_tracker(), staged=True)
    for index, frame in enumerate(FRAMES):
        wanted = session.track(frame, prompts={1: click} if index == 0 else None).masks[0]
        assert again.clock is not None
        again.clock.begin()
        np.testing.assert_array_equal(again.step(frame, prompted=index == 0), wanted)


def test_memory_is_counted_from_before_loading(cuda: SimulatedCuda, make_tracker: TrackerMaker) -> None:
    other = cuda.allocate(12345)
    found = gpu_figures.memory(
        lambda: EngineRunner(make_tracker()), FRAMES, lambda: gpu_figures.used_memory(cuda), at=(2, 6)
    )
    assert found[0] == found[1] > 0
    assert list(cuda.allocations) == [other], "a runner that was closed holds memory"


def test_pytorch_model_answers_what_the_engines_do(make_tracker: TrackerMaker) -> None:
    """On the CPU, under the same autocast; compiled verbs are called once memory is full, and answer alike."""
    torch = pytest.importorskip("torch")
    if PREBUILT:
        pytest.skip("the bundles' model is not of this run")
    called: list[str] = []

    def compiled(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            called.append(function.__name__)
            assert torch.is_autocast_enabled("cpu")
            return function(*arguments)

        return call

    model = small_model(Pooling.SCORE_BIAS)
    eager, wrapped = (TorchRunner(model, "cpu", compiled=how, staged=how is not None) for how in (None, compiled))
    session = make_tracker().start_session(max_objects=1)
    click = Prompt(points=[(0.25 * WIDTH, 0.6 * HEIGHT)], labels=[1])
    for index in range(18):
        frame = FRAMES[index % len(FRAMES)]
        if index == 17:
            assert wrapped.clock is not None
            wrapped.clock.begin()
            called.clear()
        masks = [runner.step(frame, prompted=index == 0) for runner in (eager, wrapped)]
        np.testing.assert_array_equal(masks[0], masks[1])
        wanted = session.track(frame, prompts={1: click} if index == 0 else None).masks[0]
        assert masks[0].shape == wanted.shape == (HEIGHT, WIDTH)
        assert np.mean(masks[0] == wanted) > 0.9, "bfloat16 moves edges, not objects"
    assert called == ["encode", "condition", "segment", "remember"]
    assert wrapped.clock is not None
    assert {len(values) for values in wrapped.clock.times.values()} == {1}
    for runner in (eager, wrapped):
        runner.wait()
        runner.close()


def test_tables() -> None:
    times = {"TensorRT fp16": [2.0, 2.0, 4.0], "PyTorch bf16": [8.0, 8.0, 8.0]}
    rows = gpu_figures.whole_table(times, ["PyTorch bf16"]).splitlines()
    assert rows[0] == "| whole frame, ms | p50 | p95 | p99 | PyTorch bf16 over it |"
    assert rows[2] == "| TensorRT fp16 | 2.00 | 3.80 | 3.96 | 4.00 |"
    assert rows[3].endswith("| 1.00 |")
    assert "| a | track | 1.00 | 1.00 | 1.00 |" in gpu_figures.stage_table({"a": {"track": [1.0]}})
    assert "| a | 1.0 | 2.0 |" in gpu_figures.memory_table({"a": [1_000_000, 2_000_000]}, (50, 2000))


def test_everything_but_the_gpu(
    cuda: SimulatedCuda,
    small_bundle: SmallBundleMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command itself, on bundles, without torch: engines are simulated, and so is what they are built by."""
    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    paths = []
    for precision in ("fp16", "int8"):
        made = source.copy_to(tmp_path / precision)
        manifest = json.loads((made.path / MANIFEST).read_text())
        write_manifest(made.path, {**manifest, "precision": precision})
        paths.append(made.path)
    trt = simulated_tensorrt(cuda)

    def build(path: Path) -> None:
        write_simulated_engines(Bundle.load(path), platform_here(TENSORRT, trt, cuda.gpu))

    monkeypatch.setattr(gpu_figures, "EARLY", 2)
    monkeypatch.setattr(gpu_figures, "build", build)
    for module in ("benchmarks.gpu_figures", "etam_edge.runtimes.backends.tensorrt.backend"):
        monkeypatch.setattr(f"{module}.open_cuda", lambda index=0: cuda)
        monkeypatch.setattr(f"{module}.import_tensorrt", lambda flavour=TENSORRT: trt)
    given = [part for path in paths for part in ("--bundle", str(path))]
    small = ["--frames", "2", "--memory-frames", "3", "--size", f"{WIDTH}x{HEIGHT}"]
    assert gpu_figures.main([*given, *small, "--no-torch"]) == 0
    said = capsys.readouterr().out
    assert cuda.gpu.name in said
    for precision in ("fp16", "int8"):
        assert said.count(f"| TensorRT {precision} |") == 2 + len(STAGES)
    assert "at frame 3" in said
    assert not cuda.allocations
    with pytest.raises(InputError, match=r"are fp16: .* is the second"):
        gpu_figures.take_bundles([paths[0], paths[0]], False, tmp_path / "twice")


def test_one_sentence_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def none() -> None:
        raise RuntimeUnavailableError("there is no NVIDIA driver that works on this machine; install it")

    monkeypatch.setattr(gpu_figures, "open_cuda", none)
    assert gpu_figures.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: there is no NVIDIA driver that works on this machine; install it\n"


@pytest.mark.parametrize(
    "arguments",
    [["a", "--bundle", "b"], ["--checkpoint", "c"], ["--size", "big"], ["--frames", "0"], ["--memory-frames", "9"]],
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_figures.main(arguments)
    assert "error: " in capsys.readouterr().err
