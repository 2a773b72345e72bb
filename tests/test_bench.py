"""What a benchmark measures, on scripted clocks: percentiles, turns, stages, ratios, and signs of noise."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image

from etam_edge import Prompt, Tracker
from etam_edge.benchmark import machine as machine_module
from etam_edge.benchmark import matrix_speed
from etam_edge.benchmark import measure as measure_module
from etam_edge.benchmark.background import BackgroundLoad
from etam_edge.benchmark.clip import BenchClip, clip_of_source, drawn_clip, grid_boxes
from etam_edge.benchmark.machine import device_memory, governor, peak_memory, power_mode, resident_memory
from etam_edge.benchmark.measure import Candidate, check_length, frames_to_fill, measure, stage_frames
from etam_edge.benchmark.noise import NoiseWatch, busy_warning, pace_warning, scatter_warnings
from etam_edge.benchmark.result import Memory, ObjectsRun, SideRun, Timing, drift, ratio
from etam_edge.benchmark.stages import OTHER, STAGES, Stopwatch, TimedStream
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import TENSORRT
from etam_edge.errors import InputError
from etam_edge.media.sources import ImageFolder
from etam_edge.runtimes import session as session_module
from etam_edge.runtimes.backends.cuda.driver import Gpu
from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here
from etam_edge.spec import OFFICIAL, Pooling
from etam_edge_testing.simulated import A100, ORIN, SimulatedCuda, simulated_tensorrt, write_simulated_engines
from etam_edge_testing.small import SMALL, clip_frame

WARM_UP, FRAMES = 17, 30


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def still_clip(size: int = 32, decoded: bool = False, opens: bool = False, length: int = 4) -> BenchClip:
    frames = [np.full((size, size, 3), index, np.uint8) for index in range(length)]
    return BenchClip("still", (size, size), decoded, lambda: iter(frames), opens)


# --- figures ---


def test_percentiles_lie_between_neighbours() -> None:
    timing = Timing.of([float(value) for value in range(101)])
    assert timing == Timing(p50=50, p95=95, p99=99, minimum=0, frames=101)
    assert Timing.of([10.0, 20.0]).p50 == 15
    assert timing.frames_per_second == 20
    assert Timing.of([0.0]).frames_per_second == 0


def test_drift_compares_the_last_frames_with_early_ones() -> None:
    steady = [10.0] * 200
    assert drift(steady, 20) == 1
    # What lies before frame 50 does not count where the stream is long, and the warm-up never does.
    assert drift([99.0] * 50 + [10.0] * 125 + [15.0] * 25, 20) == 1.5
    assert drift([99.0] * 20 + [10.0] * 5 + [20.0] * 5, 20) == 2
    assert drift([99.0] * 120 + [10.0] * 25 + [5.0] * 30, 120) == 0.5


def test_ratio_is_theirs_over_ours_with_its_spread() -> None:
    random = np.random.default_rng(1)
    ours = list(10 + random.random(80))
    theirs = [2 * value for value in ours]
    found = ratio(ours, theirs)
    assert found == ratio(ours, theirs)
    assert found.of_medians == pytest.approx(2)
    assert found.of_minima == pytest.approx(2)
    # In pairs: what slows both down does not widen the interval.
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(2))
    noisy = ratio(ours, list(random.permutation(theirs)))
    assert noisy.low < noisy.of_medians < noisy.high
    assert ratio([0.0, 0.0], [0.0, 0.0]).of_medians == 1


# --- clips ---


def test_prompts_for_any_number_of_objects() -> None:
    clip = drawn_clip()
    assert clip.frame_shape == (240, 320)
    assert not clip.decoded
    for count in (1, 2, 3, 7):
        prompts = clip.prompts(count)
        assert list(prompts) == list(range(1, count + 1))
        assert [prompt.mask is not None for prompt in prompts.values()] == [number < 2 for number in range(count)]
    assert grid_boxes(0, (100, 200)) == []
    assert grid_boxes(1, (100, 200)) == [(50, 25, 150, 75)]
    assert len(set(grid_boxes(5, (100, 200)))) == 5
    for x0, y0, x1, y1 in grid_boxes(7, (100, 200)):
        assert 0 <= x0 < x1 <= 200
        assert 0 <= y0 < y1 <= 100


def test_the_drawn_clip_in_another_size_and_without_end() -> None:
    clip = drawn_clip((90, 160))
    frames = [frame.pixels for frame in islice(clip.frames(), 61)]
    assert {frame.shape for frame in frames} == {(90, 160, 3)}
    np.testing.assert_array_equal(frames[0], frames[60])
    assert (frames[0] != frames[30]).any()
    assert [mask.shape for mask in clip.masks] == [(90, 160)] * 2
    with pytest.raises(InputError, match="a frame size of 9000 x 90 pixels is out of range"):
        drawn_clip((90, 9000))


def test_reading_is_timed_where_something_is_read(tmp_path: Path) -> None:
    clock = Clock()

    def slowly() -> Iterator[np.ndarray]:
        for pause in (0.5, 0.25):
            clock.now += pause
            yield np.zeros((4, 4, 3), np.uint8)
        clock.now += 9

    for decoded, opens, wanted in (
        (True, False, [500, 250, 500, 250]),
        (True, True, [None, 250, None, 250]),
        (False, False, [None] * 4),
    ):
        clip = BenchClip("slow", (4, 4), decoded, slowly, opens)
        assert [frame.decode for frame in islice(clip.frames(clock), 4)] == wanted
    for index in range(2):
        Image.fromarray(clip_frame(index, 20, 30)).save(tmp_path / f"{index}.png")
    clip = clip_of_source(ImageFolder(tmp_path))
    assert (clip.name, clip.frame_shape, clip.decoded, clip.opens) == (tmp_path.name, (20, 30), True, False)
    frames = list(islice(clip.frames(), 3))
    np.testing.assert_array_equal(frames[0].pixels, frames[2].pixels)
    assert all(frame.decode is not None for frame in frames)
    assert list(clip.prompts(2)) == [1, 2]


# --- the run ---


def scripted(clock: Clock, name: str, seconds: list[float], order: list[tuple[str, int]]) -> Candidate:
    """A candidate whose frames take what they are told."""

    def start(objects: int) -> measure_module.Stream:
        clock.now += 0.125 * objects
        frames = iter(enumerate(seconds))

        def track(pixels: np.ndarray, prompts: dict[int, Prompt] | None) -> None:
            index, pause = next(frames)
            assert (index == 0) == (prompts is not None)
            if prompts is not None:
                assert len(prompts) == objects
            order.append((name, index))
            clock.now += pause

        return track

    return Candidate(name, start)


def test_two_take_turns_and_the_first_turn_alternates() -> None:
    clock, order = Clock(), []
    ours = [9.0] * WARM_UP + [0.001 * number for number in range(1, 14)]
    theirs = [5.0] * WARM_UP + [0.002 * number for number in range(1, 14)]
    steps: list[str] = []
    run = measure(
        [scripted(clock, "ours", ours, order), scripted(clock, "theirs", theirs, order)],
        still_clip(),
        3,
        FRAMES,
        WARM_UP,
        clock,
        steps.append,
    )
    assert order == [
        (name, index)
        for index in range(FRAMES)
        for name in (("ours", "theirs") if index % 2 == 0 else ("theirs", "ours"))
    ]
    assert steps == ["frames, 3 objects"] * FRAMES
    first, second = run.sides
    assert (first.side, second.side, run.objects, run.decode) == ("ours", "theirs", 3, None)
    assert (first.start, first.first_frame, first.second_frame) == (375, 9000, 9000)
    assert first.milliseconds == pytest.approx([1e3 * value for value in ours])
    assert first.whole == Timing(*(pytest.approx(value) for value in (7, 12.4, 12.88, 1)), frames=FRAMES - WARM_UP)
    assert first.frames_per_second == pytest.approx(1e3 / 7)
    assert second.whole.p50 == pytest.approx(14)
    assert run.ratio is not None
    assert run.ratio.of_medians == pytest.approx(2)
    assert run.ratio.of_minima == pytest.approx(2)
    assert first.stages is first.session_memory is None


def test_one_alone_has_no_ratio_and_its_reading_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    held = iter([1000, 1500])
    monkeypatch.setattr(machine_module, "resident_memory", lambda root: next(held))
    clip = still_clip(decoded=True)
    run = measure([scripted(clock, "ours", [0.5] * FRAMES, [])], clip, 1, FRAMES, WARM_UP, clock)
    assert run.ratio is None
    assert run.decode == Timing(0, 0, 0, 0, FRAMES - WARM_UP)
    memory = run.memory
    assert (memory.resident_after_warm_up, memory.resident_at_end, memory.growth) == (1000, 1500, 500)


def test_a_run_that_says_nothing_is_refused() -> None:
    assert {frames_to_fill(spec) for spec in OFFICIAL.values()} == {17}
    longer = SMALL.replace(max_object_pointers=30)
    check_length(27, 17, [SMALL])
    for frames, warm_up, specs, sentence in (
        (200, 16, [SMALL], "a warm-up of 16 frames ends before the memory is full, which takes 17 frames"),
        (200, 20, [SMALL, longer], "takes 31 frames, .* use `warm_up=31` or more"),
        (26, 17, [SMALL], "26 frames leave 9 after a warm-up of 17, .* use `frames=27` or more"),
        (5, 20, [SMALL], "5 frames leave 0 after a warm-up of 20"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_length(frames, warm_up, specs)
    assert stage_frames(200, 20) == 80
    assert stage_frames(30, 20) == 30


# --- stages ---


def test_a_stopwatch_counts_stages_and_what_remains() -> None:
    clock, waits = Clock(), []

    def wait() -> None:
        waits.append(clock.now)
        clock.now += 0.001

    def take(seconds: float) -> None:
        clock.now += seconds

    watch = Stopwatch(wait, clock)

    def frame() -> None:
        take(0.5)
        for stage, seconds in (("upload", 0.25), ("track", 1), ("upload", 0.25), ("prompt", 2)):
            watch.begin(stage)
            take(seconds)
            watch.end(stage)

    whole, spent = watch.frame(frame)
    assert list(spent) == [*STAGES, "prompt", OTHER]
    assert spent["upload"] == pytest.approx(502)
    assert spent["track"] == pytest.approx(1001)
    assert spent["prompt"] == pytest.approx(2001)
    assert spent["encode"] == 0
    # After every stage, and at the frame's end.
    assert len(waits) == 5
    assert whole == pytest.approx(4005)
    assert sum(spent.values()) == pytest.approx(whole)
    assert spent[OTHER] == pytest.approx(501)
    # A frame begins with nothing.
    assert watch.frame(lambda: None)[1]["upload"] == 0


@pytest.fixture
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    pytest.importorskip("onnxruntime")
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


def test_stages_of_a_bundle_sum_to_the_whole_and_change_no_answer(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    track = session_module.Session.track

    def kept(self: session_module.Session, *given: object) -> object:
        answers.append(track(self, *given))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(session_module.Session, "track", kept)
    stream = TimedStream(tracker, 2)
    session = tracker.start_session(max_objects=2)
    clip = drawn_clip((90, 160))
    for index, frame in enumerate(islice(clip.frames(), 4)):
        prompts = clip.prompts(2) if index == 0 else None
        whole, spent = stream.track(frame.pixels, prompts)
        assert sum(spent.values()) == pytest.approx(whole)
        assert min(spent.values()) >= 0
        for stage in ("resize", "upload", "encode", "download", "masks", "store"):
            assert spent[stage] > 0, stage
        assert (spent["track"] > 0) == (index > 0)
        assert (spent.get("prompt", 0) > 0) == (spent.get("remember", 0) > 0) == (index == 0)
        plain = session.track(frame.pixels, prompts)
        np.testing.assert_array_equal(answers[-2].mask_logits, plain.mask_logits)
        np.testing.assert_array_equal(answers[-2].masks, plain.masks)
    bank = session._workspace.bank.values()
    assert stream.nbytes > sum(buffer.nbytes for buffer in bank) > 0


def test_a_bundle_with_several_numbers_of_objects(tracker: Tracker) -> None:
    clip, steps = drawn_clip((90, 160)), []
    for objects in (1, 3):
        steps.clear()
        run = measure([Candidate.of("small", tracker)], clip, objects, FRAMES, WARM_UP, step=steps.append)
        assert len(steps) == 2 * FRAMES
        [side] = run.sides
        assert len(side.milliseconds) == FRAMES
        assert side.whole.frames == FRAMES - WARM_UP
        assert 0 < side.whole.minimum <= side.whole.p50 <= side.whole.p95 <= side.whole.p99
        assert side.stages is not None
        assert list(side.stages.stages) == [*STAGES, OTHER]
        assert side.stages.stages["track"].p50 > 0
        # Minima belong to different frames: their sum is below the whole of any of them.
        assert sum(stage.minimum for stage in side.stages.stages.values()) <= side.stages.whole.minimum * (1 + 1e-9)
        assert side.session_memory
        json.dumps(dataclasses.asdict(run), allow_nan=False)


@pytest.mark.parametrize("gpu", [A100, ORIN], ids=["discrete", "integrated"])
def test_engines_on_a_device_that_works_on_by_itself(gpu: Gpu, small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "robot")
    cuda = SimulatedCuda(gpu)
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(bundle, platform_here(TENSORRT, trt, cuda.gpu), 2)
    engines = Tracker(bundle, TensorRTBackend(bundle, cuda, trt))
    stream = TimedStream(engines, 1)
    clip = drawn_clip((90, 160))
    for index, frame in enumerate(islice(clip.frames(), 3)):
        whole, spent = stream.track(frame.pixels, clip.prompts(1) if index == 0 else None)
        assert sum(spent.values()) == pytest.approx(whole)
        # Work is done when it is waited for. Without a wait after each, the first download would pay for all.
        assert spent["encode"] > spent["download"]
        assert not any(cuda._queues.values())
    candidates = [Candidate.of("engines", engines), Candidate.of("graphs", Tracker.load(bundle.path, "onnxruntime"))]
    run = measure(candidates, clip, 2, FRAMES, WARM_UP)
    assert all(side.stages is not None for side in run.sides)
    assert run.ratio is not None
    # All that a session allocated, and nothing else, is told.
    assert run.sides[0].session_memory == run.sides[1].session_memory


def test_a_frame_ends_when_the_device_has_done_its_work(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = Bundle.load(small_bundle(Pooling.SCORE_BIAS)).copy_to(tmp_path / "robot")
    cuda = SimulatedCuda(A100)
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(bundle, platform_here(TENSORRT, trt, cuda.gpu), 1)
    stream = Candidate.of("engines", Tracker(bundle, TensorRTBackend(bundle, cuda, trt))).start(1)
    clip = drawn_clip((90, 160))
    for index, frame in enumerate(islice(clip.frames(), 2)):
        stream(frame.pixels, clip.prompts(1) if index == 0 else None)
        assert not any(cuda._queues.values())


# --- torch ---


@pytest.mark.parametrize("objects", [1, 4])
def test_the_pytorch_model_does_the_same_work(objects: int, tracker: Tracker) -> None:
    pytest.importorskip("torch")
    from etam_edge.benchmark.torch_model import torch_candidate
    from etam_edge_testing.small import small_model

    sizes = tracker.bundle.manifest.sizes
    candidate = torch_candidate("torch", small_model(Pooling.SCORE_BIAS), sizes)
    assert candidate.tracker is None
    stream, session = candidate.start(objects), tracker.start_session(max_objects=objects)
    clip = drawn_clip((90, 160))
    for index, frame in enumerate(islice(clip.frames(), 3)):
        prompts = clip.prompts(objects) if index == 0 else None
        masks, result = stream(frame.pixels, prompts), session.track(frame.pixels, prompts)
        assert isinstance(masks, np.ndarray)
        assert masks.shape == result.masks.shape
        # Logits near zero may fall to either side.
        assert (masks != result.masks).mean() < 1e-3


# --- noise and the machine ---


def side_run(p50: float, p95: float) -> SideRun:
    whole = Timing(p50, p95, p95, p50, 100)
    return SideRun("some", 0, 0, 0, [], whole, 1e3 / p50, 1, None, None)


def test_signs_of_noise() -> None:
    assert busy_warning(None, 2) == busy_warning(1.0, 2) == []
    [sentence] = busy_warning(1.1, 2)
    assert sentence.startswith("the machine was busy when this began (a load of 1.1 on 2 cores)")
    assert pace_warning(1.0, 1.1) == []
    for before, after in ((1.0, 1.3), (1.3, 1.0)):
        [sentence] = pace_warning(before, after)
        assert f"took {before:.2f} ms before and {after:.2f} ms after" in sentence
    memory = Memory(None, None, None, None, None)
    run = ObjectsRun(2, None, [side_run(10, 14), side_run(10, 16)], None, memory)
    [sentence] = scatter_warnings(run)
    assert sentence.startswith("times of some with 2 objects scatter (p95 is 1.6 times p50)")


def test_noise_is_watched_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([3.0, 1.0])
    monkeypatch.setattr(machine_module, "load", lambda: next(loads))
    clock = Clock()
    watch = NoiseWatch(clock)
    noise = watch.finish([], 2)
    assert (noise.load_before, noise.load_after, noise.pace_before, noise.pace_after) == (3, 1, 0, 0)
    assert len(noise.warnings) == 1


def test_what_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() is None
    assert device_memory() is None
    assert governor(tmp_path) is None
    assert resident_memory(tmp_path) is None
    program("nvpmodel", "echo 'NVPM WARN: fan mode is not set!'; echo 'NV Power Mode: MODE_30W'; echo 2")
    program("nvidia-smi", f"echo '1, 5'; echo '{os.getpid()}, 512'; echo odd")
    assert power_mode() == "MODE_30W"
    assert device_memory() == 512 << 20
    for name in ("nvpmodel", "nvidia-smi"):
        program(name, "exit 1")
    assert power_mode() is None
    assert device_memory() is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nVmRSS:\t    2048 kB\nVmData:\t 1 kB\n")
    assert resident_memory(tmp_path) == 2 << 20
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("schedutil\n")
    assert governor(tmp_path) == "schedutil"
    if shutil.which("uname", path="/usr/bin:/bin"):
        assert (peak_memory() or 0) > 10 << 20


def test_background_load_runs_while_it_is_wanted() -> None:
    with BackgroundLoad(2) as load:
        running = list(load._running)
        assert len(running) == 2
        assert all(process.poll() is None for process in running)
    assert all(process.poll() is not None for process in running)
    with pytest.raises(InputError, match="257 busy processes are not possible"):
        BackgroundLoad(257)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_matrix_speed_is_of_the_backends_runtime(
    runtime: str, small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks a second a look: 2 * 64^3 operations a second."""
    pytest.importorskip(runtime)
    monkeypatch.setattr(matrix_speed, "SIDE", 64)
    backend = Tracker.load(small_bundle(Pooling.NONE), runtime, threads=1).backend
    product = matrix_speed._product(backend)
    assert product is not None
    ticks = iter(range(100))
    assert matrix_speed.matrix_speed(backend, clock=lambda: next(ticks)) == pytest.approx(2 * 64**3 / 1e9)
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
    answer = product()
    [found] = answer if isinstance(answer, list) else answer.values()  # type: ignore[attr-defined]
    assert np.allclose(found, left @ right, atol=1e-3)
