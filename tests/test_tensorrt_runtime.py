"""The TensorRT runtime on a simulated GPU: same answers as ONNX Runtime, memory where it belongs, errors that help."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import BundleMaker, SmallBundleMaker, golden_parameters

from etam_edge import FrameResult, Prompt, Session, Tracker
from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import FOLDER, TENSORRT, TENSORRT_RTX, EnginePlatform, engine_path
from etam_edge.errors import BundleError, CudaError, EtamError, InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.buffers import Buffer
from etam_edge.runtimes.backends.cuda import bindings_driver, pycuda_driver
from etam_edge.runtimes.backends.cuda import device as cuda_device
from etam_edge.runtimes.backends.cuda import open as opening
from etam_edge.runtimes.backends.cuda.device import CudaDevice
from etam_edge.runtimes.backends.cuda.driver import Gpu, board_model
from etam_edge.runtimes.backends.tensorrt import backend as tensorrt_backend
from etam_edge.runtimes.backends.tensorrt import cuda_graphs
from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import (
    create_builder,
    create_context,
    device_memory_of,
    import_tensorrt,
    platform_here,
)
from etam_edge.spec import Pooling
from etam_edge_testing.fake_cuda_packages import fake_bindings, fake_pycuda
from etam_edge_testing.golden_runs import session_outputs
from etam_edge_testing.goldens import GOLDENS, Comparison, Golden
from etam_edge_testing.simulated import (
    A100,
    DEVICE_MEMORY,
    ORIN,
    SimulatedCuda,
    simulated_tensorrt,
    write_simulated_engines,
)
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 100))
MASK = Prompt(mask=np.add.outer(np.arange(128), np.arange(128)) < 110)
CORRECTION = Prompt(points=[(100, 20)], labels=[0])
MAX_OBJECTS = 3


@dataclasses.dataclass
class Machine:
    """A bundle with engines, and the simulated machine that they were built for."""

    bundle: Bundle
    cuda: SimulatedCuda
    trt: Any

    @property
    def platform(self) -> EnginePlatform:
        flavour = TENSORRT_RTX if self.trt.__name__ == "tensorrt_rtx" else TENSORRT
        return platform_here(flavour, self.trt, self.cuda.gpu)

    def backend(self, cuda_graphs: bool = True) -> TensorRTBackend:
        return TensorRTBackend(self.bundle, self.cuda, self.trt, cuda_graphs)

    def tracker(self, cuda_graphs: bool = True) -> Tracker:
        return Tracker(self.bundle, self.backend(cuda_graphs))

    def reference(self) -> Tracker:
        return Tracker.load(self.bundle.path, "onnxruntime", provider="cpu", threads=1)


MachineMaker = Callable[..., Machine]


@pytest.fixture
def make_machine(small_bundle: SmallBundleMaker, tmp_path: Path) -> MachineMaker:
    def make(
        pooling: Pooling = Pooling.SCORE_BIAS, gpu: Gpu = A100, can_capture: bool = True, rtx: bool = False
    ) -> Machine:
        bundle = Bundle.load(small_bundle(pooling)).copy_to(tmp_path / "robot" / pooling.value)
        cuda = SimulatedCuda(gpu, can_capture)
        machine = Machine(bundle, cuda, simulated_tensorrt(cuda, rtx=rtx))
        write_simulated_engines(bundle, machine.platform, MAX_OBJECTS)
        return machine

    return make


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Makes a simulated machine the one that `Tracker.load` finds."""

    def put(machine: Machine) -> None:
        def find(flavour: str = TENSORRT) -> Any:
            if machine.platform.flavour != flavour:
                raise RuntimeUnavailableError(f"there is no {flavour}")
            return machine.trt

        monkeypatch.setattr(tensorrt_backend, "import_tensorrt", find)
        monkeypatch.setattr(tensorrt_backend, "open_cuda", lambda index=0: machine.cuda)

    return put


def same(first: FrameResult, second: FrameResult) -> None:
    for name in ("frame_index", "object_ids"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("masks", "mask_logits", "object_scores", "ious", "mask_choices"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def play(sessions: list[Session], index: int) -> None:
    """One frame of a stream in which objects come, go, and are corrected; all sessions must answer alike."""
    prompts = {0: {1: CLICK}, 3: {2: BOX}, 7: {3: MASK, 1: BOX}, 12: {4: CLICK}}.get(index)
    results = [session.track(clip_frame(index), prompts=prompts) for session in sessions]
    for result in results[1:]:
        same(results[0], result)
    if index in (2, 7, 14):
        corrected = 1 if index == 2 else 3
        results = [session.refine(corrected, CORRECTION) for session in sessions]
        same(results[0], results[-1])
    if index == 10:
        for session in sessions:
            session.remove(2)
    for object_id in sessions[0].object_ids:
        pointers = [session.object_pointer(object_id) for session in sessions]
        np.testing.assert_array_equal(pointers[0], pointers[-1])


@pytest.mark.parametrize("runtime", ["tensorrt", "auto"])
def test_gpu_index_selects_the_gpu(
    runtime: str,
    make_machine: MachineMaker,
    at_hand: Callable[[Machine], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = make_machine()
    at_hand(machine)
    opened: list[int] = []

    def open_cuda(index: int) -> SimulatedCuda:
        opened.append(index)
        return machine.cuda

    monkeypatch.setattr(tensorrt_backend, "open_cuda", open_cuda)
    for options in ({}, {"device": 1}):
        with Tracker.load(machine.bundle.path, runtime, **options) as tracker:  # type: ignore[arg-type]
            assert tracker.runtime.startswith("tensorrt")
    assert opened == [0, 1]


# --- what it answers ---


@pytest.mark.parametrize("pooling", list(Pooling), ids=lambda pooling: pooling.value)
@pytest.mark.parametrize("gpu", [A100, ORIN], ids=["own memory", "shared memory"])
def test_answers_are_those_of_onnxruntime(pooling: Pooling, gpu: Gpu, make_machine: MachineMaker) -> None:
    machine = make_machine(pooling, gpu)
    sessions = [tracker.start_session(max_objects=3) for tracker in (machine.reference(), machine.tracker())]
    for index in range(20):
        play(sessions, index)


def test_stream_wraps_its_ring_and_allocates_nothing(make_machine: MachineMaker) -> None:
    machine = make_machine()
    tracker = machine.tracker()
    sessions = [machine.reference().start_session(max_objects=3), tracker.start_session(max_objects=3)]
    held = dict(machine.cuda.calls), dict(machine.cuda.allocations), dict(machine.cuda.host_allocations)
    for index in range(45):
        play(sessions, index)
    calls = machine.cuda.calls
    for kind in ("allocate", "allocate_host", "free", "free_host"):
        assert calls[kind] == held[0].get(kind, 0), kind
    assert (machine.cuda.allocations, machine.cuda.host_allocations) == held[1:]
    assert calls["launch"] > 60
    assert machine.cuda.graphs <= cuda_graphs.LIMIT


def test_memory_stays_on_the_device(make_machine: MachineMaker) -> None:
    """A tracked frame costs its pixels and a few numbers up, its answer down; the entry moves within the device."""
    machine = make_machine()
    session = machine.tracker(cuda_graphs=False).start_session()
    for index in range(9):
        session.track(clip_frame(index), prompts={1: CLICK} if index == 0 else None)
    before = dict(machine.cuda.calls)
    session.track(clip_frame(9))
    spent = {name: machine.cuda.calls[name] - before.get(name, 0) for name in machine.cuda.calls}
    size = 128
    assert size * size * 3 <= spent["to_device bytes"] < size * size * 3 + 2048
    # The values of the memory entry are looked at for NaN; its keys, which are most of it, are not.
    down = (size // 4) ** 2 * 4 + values_bytes(machine)
    assert down <= spent["to_host bytes"] < down + 2048
    assert spent["to_device"] == 2, "the frame, and what is read from which slot"
    assert spent["to_host"] == 3, "the mask, the values, and everything else"
    assert spent["synchronize"] == 1
    entry = {tensor.name: tensor for tensor in machine.bundle.manifest.graphs["track"].signature.outputs}
    stored = [entry[name] for name in ("memory_keys", "memory_values", "object_pointer")]
    assert spent["on_device"] == 3
    assert spent["on_device bytes"] == sum(
        int(np.prod(tensor.sized(1))) * np.dtype(tensor.dtype).itemsize for tensor in stored
    )


def values_bytes(machine: Machine) -> int:
    """Bytes of the values of one object's memory entry."""
    outputs = machine.bundle.manifest.graphs["track"].signature.outputs
    values = next(tensor for tensor in outputs if tensor.name == "memory_values")
    return int(np.prod(values.sized(1))) * np.dtype(values.dtype).itemsize


def test_frames_and_masks_are_not_copied_where_memory_is_shared(make_machine: MachineMaker) -> None:
    machine = make_machine(gpu=ORIN)
    session = machine.tracker().start_session()
    session.track(clip_frame(0), prompts={1: CLICK})
    session.track(clip_frame(1))
    before = dict(machine.cuda.calls)
    session.track(clip_frame(2))
    assert machine.cuda.calls["to_device bytes"] - before["to_device bytes"] < 2048
    assert machine.cuda.calls["to_host bytes"] - before["to_host bytes"] < values_bytes(machine) + 2048
    # Before the frame is written to mapped memory, which the last call may still read; and for the answer.
    assert machine.cuda.calls["synchronize"] - before["synchronize"] == 2


def test_saved_session_resumes_in_either_runtime(make_machine: MachineMaker, tmp_path: Path) -> None:
    machine = make_machine()
    trackers = [machine.reference(), machine.tracker()]
    sessions = [tracker.start_session(max_objects=3) for tracker in trackers]
    for index in range(9):
        play(sessions, index)
    sessions[1].save(tmp_path / "state.npz")
    resumed = [sessions[0], *(tracker.resume_session(tmp_path / "state.npz") for tracker in trackers)]
    for index in range(9, 18):
        play(resumed, index)


def test_large_state_goes_through_staging_in_parts(make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "STAGING", 8192)
    machine = make_machine()
    device = CudaDevice(machine.cuda)
    content = np.random.default_rng(1).standard_normal((50, 333)).astype(np.float32)
    buffers = [device.empty(content.shape, "float32") for _ in range(3)]
    for factor, buffer in enumerate(buffers):
        device.upload(content * factor, buffer)
    device.copy(buffers[2], buffers[0])
    for factor, buffer in zip((2, 1, 2), buffers, strict=True):
        np.testing.assert_array_equal(device.download(buffer), content * factor)
    # Many small ones, none waited for: each has its own place until the device has it.
    small = [device.empty((7,), "int32") for _ in range(100)]
    for index, buffer in enumerate(small):
        device.upload(np.full(7, index, dtype=np.int32), buffer)
    assert [int(device.download(buffer)[0]) for buffer in small] == list(range(100))


def test_several_sessions_of_one_tracker(make_machine: MachineMaker) -> None:
    machine = make_machine()
    tracker, reference = machine.tracker(), machine.reference()
    pairs = [[one.start_session(max_objects=3) for one in (reference, tracker)] for _ in range(2)]
    for index in range(8):
        play(pairs[0], index)
        if index > 3:
            play(pairs[1], index - 4)


SEEDED = [
    golden
    for golden in GOLDENS
    if golden.variant in ("efficienttam_ti_512x512", "efficienttam_ti_2") and not golden.form
]


@pytest.mark.parametrize("golden", golden_parameters(SEEDED))
def test_golden_scenario(golden: Golden, seeded_bundle: BundleMaker, tmp_path: Path) -> None:
    """The outputs of the reference, reproduced by the whole TensorRT backend."""
    bundle = Bundle.load(seeded_bundle(*golden.weights_id)).copy_to(tmp_path / "golden")
    cuda = SimulatedCuda(ORIN)
    trt = simulated_tensorrt(cuda)
    write_simulated_engines(bundle, platform_here(TENSORRT, trt, cuda.gpu))
    comparison = Comparison(golden)
    comparison.check(session_outputs(golden, Tracker(bundle, TensorRTBackend(bundle, cuda, trt))))
    shutil.rmtree(bundle.path)
    assert not comparison.failures


# --- failures leave no trace ---


@pytest.mark.parametrize("graph", ["encode", "track", "prompt", "remember"])
def test_failed_call_leaves_the_session_as_it_was(graph: str, make_machine: MachineMaker) -> None:
    machine = make_machine()
    failing, untouched = machine.tracker(cuda_graphs=False).start_session(), machine.reference().start_session()
    for index in range(12):
        prompts = {1: CLICK, 2: BOX} if index == 0 else None
        if index in (4, 9):
            machine.trt.fails = graph
            with pytest.raises(CudaError, match=rf"graph '{graph}' failed: IExecutionContext::enqueueV3: {graph} fail"):
                failing.track(clip_frame(index), prompts={1: BOX, 3: CLICK})
            machine.trt.fails = None
        same(failing.track(clip_frame(index), prompts=prompts), untouched.track(clip_frame(index), prompts=prompts))


def test_more_objects_than_the_engines_take_are_tracked_in_several_calls(make_machine: MachineMaker) -> None:
    machine = make_machine()
    sessions = [tracker.start_session(max_objects=5) for tracker in (machine.reference(), machine.tracker(False))]
    for index in range(4):
        prompts = {1: CLICK, 2: BOX, 3: MASK} if index == 0 else {4: BOX, 5: CLICK} if index == 1 else None
        executed = machine.trt.executed["track"]
        same(*(session.track(clip_frame(index), prompts=prompts) for session in sessions))
    assert machine.trt.executed["track"] == executed + 2, "of 3 objects and of 2"


@pytest.mark.parametrize("name", ["bank_keys", "memory_values", "frame", "mask_logits"])
def test_wrong_address_is_caught(name: str, make_machine: MachineMaker) -> None:
    """The simulation can fail: one row too far is outside of the allocation."""
    machine = make_machine()
    session = machine.tracker().start_session(max_objects=1)
    session.track(clip_frame(0), prompts={1: CLICK})
    machine.trt.shift[name] = 512
    with pytest.raises(CudaError, match="in no device allocation"):
        session.track(clip_frame(1))


def test_missing_wait_is_caught(make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: what is not waited for is not there."""
    machine = make_machine()
    sessions = [machine.reference().start_session(max_objects=3), machine.tracker().start_session(max_objects=3)]
    monkeypatch.setattr(CudaDevice, "synchronize", lambda self: None)
    with pytest.raises((AssertionError, EtamError)):
        play(sessions, 0)


# --- memory ---


def test_everything_is_given_back(make_machine: MachineMaker) -> None:
    machine = make_machine(gpu=ORIN)
    tracker = machine.tracker()
    loaded = dict(machine.cuda.allocations)
    session = tracker.start_session()
    for index in range(8):
        session.track(clip_frame(index), prompts={1: CLICK} if index == 0 else None)
    assert machine.cuda.graphs > 0
    del session
    gc.collect()
    assert machine.cuda.allocations == loaded
    del tracker
    gc.collect()
    cuda = machine.cuda
    assert not cuda.allocations
    assert not cuda.host_allocations
    assert not cuda.streams
    assert cuda.graphs == 0


def test_closed_engine_is_not_used_again(make_machine: MachineMaker) -> None:
    machine = make_machine()
    backend = machine.backend()
    session = Tracker(machine.bundle, backend).start_session()
    for index in range(6):
        session.track(clip_frame(index), prompts={1: CLICK} if index == 0 else None)
    backend.close()
    backend.close()
    assert machine.cuda.graphs == 0
    with pytest.raises(CudaError, match="has been closed"):
        session.track(clip_frame(6))


def test_out_of_memory_says_how_much(make_machine: MachineMaker) -> None:
    machine = make_machine()
    tracker = machine.tracker()
    machine.cuda.room = sum(machine.cuda.allocations.values()) + 100_000
    with pytest.raises(CudaError, match=r"no room for [\d.]+ MB in the GPU, 0\.1 MB of the GPU's .*max_objects"):
        tracker.start_session()
    gc.collect()
    machine.cuda.room = A100.memory
    assert tracker.start_session().track(clip_frame(0), prompts={1: CLICK}).object_ids == (1,)


# --- CUDA graphs ---


def test_third_call_launches_a_recorded_graph(make_machine: MachineMaker) -> None:
    """A frame and the next use other buffers in turn, so that a call comes back with every second frame."""
    machine = make_machine()
    session = machine.tracker().start_session()
    session.track(clip_frame(0), prompts={1: CLICK})
    for index in (1, 2):
        session.track(clip_frame(index))
    assert machine.trt.executed["track"] == 2  # each for the first time
    launched = machine.cuda.calls["launch"]
    for index in (3, 4):
        session.track(clip_frame(index))
    assert machine.trt.executed["track"] == 4  # recorded
    recorded = machine.cuda.calls["begin_capture"]
    assert machine.cuda.calls["launch"] > launched + 2
    launched = machine.cuda.calls["launch"]
    for index in range(5, 9):
        session.track(clip_frame(index))
    assert machine.trt.executed["track"] == 4
    assert machine.cuda.calls["begin_capture"] == recorded
    assert machine.cuda.calls["launch"] == launched + 2 * 4  # encode and track


def test_recorded_graphs_stay_valid_while_the_number_of_objects_changes(make_machine: MachineMaker) -> None:
    """Each number of objects has an execution context and recorded graphs of its own."""
    machine = make_machine()
    session = machine.tracker().start_session()
    for index in range(8):
        session.track(clip_frame(index), prompts={1: CLICK} if index == 0 else None)
    session.track(clip_frame(8), prompts={2: BOX})
    for index in range(9, 16):
        session.track(clip_frame(index))
    session.remove(2)
    executed, captured = machine.trt.executed["track"], machine.cuda.calls["begin_capture"]
    for index in range(16, 20):
        session.track(clip_frame(index))
    assert machine.trt.executed["track"] == executed, "launched as recorded for one object"
    assert machine.cuda.calls["begin_capture"] == captured
    assert machine.cuda.calls["destroy_graph"] == 0


def test_two_sessions_with_different_numbers_of_objects_launch_recorded_graphs(make_machine: MachineMaker) -> None:
    machine = make_machine()
    reference, tracker = machine.reference(), machine.tracker()
    pairs = [[one.start_session(max_objects=3) for one in (reference, tracker)] for _ in range(2)]
    prompts = ({1: CLICK}, {1: CLICK, 2: BOX})
    for index in range(12):
        for sessions, first in zip(pairs, prompts, strict=True):
            expected, found = (
                session.track(clip_frame(index), prompts=first if index == 0 else None) for session in sessions
            )
            np.testing.assert_array_equal(found.mask_logits, expected.mask_logits)
        if index == 6:
            executed, launched = machine.trt.executed["track"], machine.cuda.calls["launch"]
    assert machine.trt.executed["track"] == executed, "both sessions launch what they recorded"
    assert machine.cuda.calls["launch"] == launched + 2 * 2 * 5  # encode and track of two sessions


def test_contexts_are_few_and_share_their_working_memory(
    make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of objects used longest ago gives its context up, and its recorded graphs with it."""
    monkeypatch.setattr(tensorrt_backend, "MAX_CONTEXTS", 2)
    machine = make_machine()
    session = machine.tracker().start_session(max_objects=3)
    session.track(clip_frame(0), prompts={1: CLICK})
    assert list(machine.cuda.allocations.values()).count(max(DEVICE_MEMORY.values())) == 1
    allocations = dict(machine.cuda.allocations)
    for index in range(1, 7):
        session.track(clip_frame(index))
    for object_id in (2, 3):
        assert machine.cuda.calls["destroy_graph"] == 0
        session.track(clip_frame(7), prompts={object_id: CLICK})
        session.track(clip_frame(8))
    assert machine.cuda.calls["destroy_graph"] == 2, "those of `track` for one object"
    assert machine.cuda.allocations == allocations, "a new context allocates nothing"


@pytest.mark.parametrize("how", ["switched off", "not known to the package", "failing"])
def test_without_cuda_graphs(how: str, make_machine: MachineMaker) -> None:
    machine = make_machine(can_capture=how != "not known to the package")
    machine.cuda.breaks_recording = how == "failing"
    tracker = machine.tracker(cuda_graphs=how != "switched off")
    sessions = [machine.reference().start_session(max_objects=3), tracker.start_session(max_objects=3)]
    for index in range(12):
        play(sessions, index)
    assert machine.cuda.calls["launch"] == 0
    assert (machine.cuda.calls["begin_capture"] > 0) == (how == "failing")


def test_graphs_of_sessions_that_ended_make_room(make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "LIMIT", 3)
    machine = make_machine()
    sessions = [machine.reference().start_session(max_objects=3), machine.tracker().start_session(max_objects=3)]
    for index in range(12):
        play(sessions, index)
    assert machine.cuda.graphs <= 3


# --- loading ---


def test_runtime_asked_for_by_name(make_machine: MachineMaker, at_hand: Callable[[Machine], None]) -> None:
    machine = make_machine(gpu=ORIN)
    at_hand(machine)
    tracker = Tracker.load(machine.bundle.path, runtime="tensorrt")
    assert tracker.runtime == "tensorrt 10.3.0 (Orin)"
    with pytest.raises(RuntimeUnavailableError, match="there is no tensorrt-rtx"):
        Tracker.load(machine.bundle.path, runtime="tensorrt-rtx")
    with pytest.raises(InputError, match="provider 'cpu' is ONNX Runtime's"):
        Tracker.load(machine.bundle.path, runtime="tensorrt", provider="cpu")
    with pytest.raises(InputError, match="use auto, onnxruntime, openvino, tensorrt or tensorrt-rtx"):
        Tracker.load(machine.bundle.path, runtime="tensorflow")


def test_tensorrt_for_rtx(make_machine: MachineMaker, at_hand: Callable[[Machine], None]) -> None:
    machine = make_machine(rtx=True)
    at_hand(machine)
    tracker = Tracker.load(machine.bundle.path, runtime="auto")
    assert tracker.runtime == f"tensorrt-rtx 10.3.0 ({A100.name})"
    sessions = [one.start_session(max_objects=3) for one in (machine.reference(), tracker)]
    for index in range(6):
        play(sessions, index)


def test_auto_takes_engines_that_serve_and_says_so(make_machine: MachineMaker, at_hand: Callable[[Any], None]) -> None:
    machine = make_machine()
    at_hand(machine)
    path = machine.bundle.path
    assert Tracker.load(path).runtime == f"tensorrt 10.3.0 ({A100.name})"
    assert Tracker.load(path, provider="cpu").runtime == "onnxruntime (cpu)"
    assert Tracker.load(path, runtime="onnxruntime").runtime.startswith("onnxruntime")


def test_auto_warns_where_engines_do_not_serve(
    make_machine: MachineMaker, at_hand: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    machine = make_machine()
    at_hand(machine)
    machine.trt.__version__ = "10.7.0"
    with caplog.at_level(logging.WARNING):
        assert Tracker.load(machine.bundle.path).runtime.startswith("onnxruntime")
    [record] = caplog.records
    assert "10.7.0" in record.getMessage()
    assert "etam-edge build" in record.getMessage()


def test_auto_imports_nothing_for_a_bundle_without_engines(small_bundle: SmallBundleMaker) -> None:
    code = (
        "import sys; from etam_edge import Tracker; print(Tracker.load(sys.argv[1]).runtime); "
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorrt', 'tensorrt_rtx', 'pycuda', 'cuda')])"
    )
    path = str(small_bundle(Pooling.SCORE_BIAS))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["onnxruntime (cpu)", "[]"]
    assert done.stderr == ""


def test_auto_warns_once_where_engines_are_there_and_tensorrt_is_not(
    make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = make_machine()
    importing(monkeypatch, {})
    for _ in range(2):
        assert Tracker.load(machine.bundle.path).runtime.startswith("onnxruntime")
    [record] = caplog.records
    assert "the Python package tensorrt is not installed" in record.getMessage()
    assert "runs in ONNX Runtime" in record.getMessage()


def test_boards_are_told_apart_by_their_device_tree(tmp_path: Path) -> None:
    assert board_model(tmp_path) == ""
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
    trt = SimpleNamespace(__version__="10.3.0")
    nano, nx = (
        platform_here(TENSORRT, trt, dataclasses.replace(ORIN, memory=memory << 20, board=board))
        for memory, board in ((7620, "NVIDIA Jetson Orin Nano"), (15523, board_model(tmp_path)))
    )
    assert (nano.memory_gib, nx.memory_gib) == (8, 16), "without what the system reserves"
    assert nx.fingerprint == "tensorrt-10.3.0-sm87-orin-8mp-16gib"
    assert nano.fingerprint != nx.fingerprint
    assert "Orin NX Engineering" in str(nx)


def test_a_driver_that_is_too_old(
    make_machine: MachineMaker, at_hand: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The bindings of 10.3 and 11.4 raise a TypeError, since the library returns no runtime."""
    machine = make_machine()
    at_hand(machine)

    def refuse(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    machine.trt.Runtime = refuse
    with pytest.raises(RuntimeUnavailableError, match=r"driver is too old for TensorRT 10\.3\.0"):
        Tracker.load(machine.bundle.path, runtime="tensorrt")
    assert not machine.cuda.allocations
    assert Tracker.load(machine.bundle.path).runtime.startswith("onnxruntime")
    [record] = caplog.records
    assert "driver is too old" in record.getMessage()
    with pytest.raises(RuntimeUnavailableError, match=r"driver is too old for TensorRT 10\.3\.0"):
        create_builder(SimpleNamespace(__version__="10.3.0", Builder=refuse), None)


def test_other_type_errors_of_the_bindings_are_not_explained_away(make_machine: MachineMaker) -> None:
    machine = make_machine()

    def wrong_arguments(logger: Any) -> None:
        raise TypeError("incompatible constructor arguments")

    machine.trt.Runtime = wrong_arguments
    with pytest.raises(TypeError, match="incompatible constructor"):
        machine.backend()


def test_cuda_bindings_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyCUDA has no CUDA graphs."""
    opened = []
    for package, name in (("cuda-bindings", "BindingsDriver"), ("pycuda", "PyCudaDriver")):
        monkeypatch.setattr(opening, name, lambda index, package=package: opened.append(package))
    opening.open_cuda()
    assert opened == ["cuda-bindings"]


def refuses(machine: Machine, match: str, kind: type[Exception] = BundleError) -> None:
    with pytest.raises(kind, match=match):
        machine.backend()
    gc.collect()


def test_engines_that_do_not_serve_are_refused(make_machine: MachineMaker) -> None:
    machine = make_machine()
    command = f"etam-edge build {machine.bundle.path}"
    other = dataclasses.replace(machine, cuda=SimulatedCuda(ORIN))
    refuses(other, f"no engines for tensorrt 10.3.0 on Orin .*it has engines for .*A100.*{command}")
    larger = dataclasses.replace(A100, multiprocessors=124, memory=80 << 30)
    refuses(
        dataclasses.replace(machine, cuda=SimulatedCuda(larger)),
        rf"no engines for .*\(124 multiprocessors, 80 GiB, .*engines for .*\(108 multiprocessors, 40 GiB.*{command}",
    )
    newer = dataclasses.replace(machine, trt=simulated_tensorrt(machine.cuda, "10.7.0"))
    refuses(newer, f"no engines for tensorrt 10.7.0 .*{command}")

    entry = machine.bundle.manifest.graphs["track"]
    graphs = {**machine.bundle.manifest.graphs, "track": dataclasses.replace(entry, sha256="another")}
    changed = Bundle(machine.bundle.path, dataclasses.replace(machine.bundle.manifest, graphs=graphs))
    refuses(dataclasses.replace(machine, bundle=changed), f"built from another track graph .*{command} --overwrite")

    path = engine_path(machine.bundle, machine.platform, "remember")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    refuses(machine, f"remember.engine is damaged.*{command} --overwrite")
    path.unlink()
    refuses(machine, f"there is no .*remember.engine; .*{command} --overwrite")


def test_engine_of_other_tensors_is_refused(make_machine: MachineMaker) -> None:
    machine = make_machine()
    entry = machine.bundle.manifest.graphs["encode"]
    [frame] = entry.signature.inputs
    signature = dataclasses.replace(entry.signature, inputs=(dataclasses.replace(frame, shape=(1, 64, 64, 3)),))
    graphs = {**machine.bundle.manifest.graphs, "encode": dataclasses.replace(entry, signature=signature)}
    changed = Bundle(machine.bundle.path, dataclasses.replace(machine.bundle.manifest, graphs=graphs))
    refuses(dataclasses.replace(machine, bundle=changed), r"encode.engine has other inputs or outputs .*\(frame\)")
    assert not machine.cuda.streams


def test_engine_that_tensorrt_does_not_load(make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine()
    monkeypatch.setattr("etam_edge_testing.simulated.MAGIC", b"another version")
    refuses(machine, r"cannot load .*encode.engine: .*magic tag does not match\); .*etam-edge build", CudaError)
    assert not machine.cuda.allocations


def test_without_room_for_a_context(make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine()
    machine.cuda.room = sum(machine.cuda.allocations.values()) + max(DEVICE_MEMORY.values()) - 1
    refuses(machine, "not enough memory on the GPU for the working memory of 'track' .*fewer objects", CudaError)
    machine.cuda.room = A100.memory
    session = machine.tracker().start_session()
    monkeypatch.setattr("etam_edge_testing.simulated.SimulatedEngine.create_execution_context", lambda *_: None)
    with pytest.raises(CudaError, match="cannot create an execution context for 'encode'"):
        session.track(clip_frame(0), prompts={1: CLICK})


def test_contexts_of_8_6_take_their_memory_by_its_address() -> None:
    context = SimpleNamespace()
    engine = SimpleNamespace(create_execution_context_without_device_memory=lambda: context, device_memory_size=64)
    scratch = Buffer(4096, (64,), np.dtype("uint8"), None)
    assert create_context(SimpleNamespace(), engine, scratch) is context
    assert context.device_memory == 4096
    assert device_memory_of(engine) == 64


# --- TensorRT and CUDA packages ---


def importing(monkeypatch: pytest.MonkeyPatch, modules: dict[str, Any]) -> None:
    """Of the packages of TensorRT and CUDA there are these modules, or what importing them raises, and no others."""
    real = importlib.import_module

    def find(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] not in ("tensorrt", "tensorrt_rtx", "pycuda", "cuda"):
            return real(name, package)
        found = modules.get(name, ModuleNotFoundError(f"No module named '{name}'", name=name))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(importlib, "import_module", find)


def test_tensorrt_is_missing_broken_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    importing(monkeypatch, {})
    with pytest.raises(RuntimeUnavailableError, match=r"tensorrt is not installed; .*JetPack.*pip install tensorrt"):
        import_tensorrt(TENSORRT)
    with pytest.raises(RuntimeUnavailableError, match=r"tensorrt_rtx is not installed; .*etam-edge\[rtx\]"):
        import_tensorrt(TENSORRT_RTX)
    importing(monkeypatch, {"tensorrt": ImportError("libnvinfer.so.10: cannot open shared object file")})
    with pytest.raises(RuntimeUnavailableError, match=r"cannot be imported .*libnvinfer"):
        import_tensorrt()
    importing(monkeypatch, {"tensorrt": SimpleNamespace(__version__="8.5.2.2")})
    with pytest.raises(RuntimeUnavailableError, match=r"8.5.2.2 is too old \(JetPack 5"):
        import_tensorrt()
    importing(monkeypatch, {"tensorrt": SimpleNamespace(__version__="8.6.2")})
    assert import_tensorrt().__version__ == "8.6.2"


def test_cuda_packages_are_missing(monkeypatch: pytest.MonkeyPatch, make_machine: MachineMaker) -> None:
    machine = make_machine()
    monkeypatch.setattr(tensorrt_backend, "import_tensorrt", lambda flavour: machine.trt)
    importing(monkeypatch, {})
    with pytest.raises(
        RuntimeUnavailableError,
        match=r"neither cuda-bindings nor PyCUDA .*pip install cuda-bindings, or pip install pycuda",
    ):
        Tracker.load(machine.bundle.path, runtime="tensorrt")
    assert Tracker.load(machine.bundle.path).runtime.startswith("onnxruntime")
    importing(monkeypatch, {"pycuda.driver": ImportError("libcuda.so.1: cannot open shared object file")})
    with pytest.raises(RuntimeUnavailableError, match="no NVIDIA driver"):
        opening.open_cuda()
    importing(monkeypatch, {"pycuda.driver": ImportError("undefined symbol: PyInt_Check")})
    with pytest.raises(RuntimeUnavailableError, match=r"PyCUDA is installed but cannot be imported .*PyInt_Check"):
        opening.open_cuda()


class FakeBindings:
    """The driver module of cuda-bindings as far as starting it goes."""

    CUresult = SimpleNamespace(CUDA_ERROR_NO_DEVICE=100, CUDA_ERROR_OUT_OF_MEMORY=2)

    def __init__(self, status: int | Exception, count: int = 1) -> None:
        self._status, self._found = status, count

    def cuInit(self, flags: int) -> tuple[int]:
        if isinstance(self._status, Exception):
            raise self._status
        return (self._status,)

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, self._found

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"CUDA driver is a stub library"


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [
        (FakeBindings(RuntimeError("libcuda.so.1 not found")), "no NVIDIA driver .*libcuda"),
        (FakeBindings(34), r"no NVIDIA driver .*stub library \(error 34\)"),
        (FakeBindings(100), "no GPU that it can use"),
        (FakeBindings(0, count=0), "no GPU that it can use"),
        (FakeBindings(0), "no GPU 1: this machine has 1"),
    ],
    ids=["no libcuda", "stub", "no device", "none counted", "other index"],
)
@pytest.mark.parametrize("name", ["cuda.bindings.driver", "cuda.cuda"])
def test_cuda_bindings_without_a_gpu(name: str, bindings: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importing(monkeypatch, {name: bindings})
    with pytest.raises(RuntimeUnavailableError, match=sentence):
        opening.open_cuda(1)


DRIVERS = {"pycuda.driver": fake_pycuda, "cuda.bindings.driver": fake_bindings, "cuda.cuda": fake_bindings}


@pytest.mark.parametrize("gpu", [A100, ORIN], ids=["own memory", "shared memory"])
@pytest.mark.parametrize("name", DRIVERS)
def test_stream_through_each_cuda_package(
    name: str, gpu: Gpu, make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(gpu=gpu)
    importing(monkeypatch, {name: DRIVERS[name](machine.cuda)})
    driver = opening.open_cuda()
    assert (driver.gpu, driver.can_capture) == (gpu, name != "pycuda.driver")
    backend = TensorRTBackend(machine.bundle, driver, machine.trt)
    sessions = [one.start_session(max_objects=3) for one in (machine.reference(), Tracker(machine.bundle, backend))]
    for index in range(12):
        play(sessions, index)
    assert (machine.cuda.calls["launch"] > 0) == driver.can_capture
    machine.cuda.room = 0
    with pytest.raises(CudaError, match=r"no room for 0.5 MB in the GPU, 0.0 MB of the GPU's"):
        driver.allocate(500_000)
    with pytest.raises((CudaError, KeyError)):
        driver.synchronize(12345)
    del backend, sessions
    gc.collect()
    cuda = machine.cuda
    assert (cuda.depth, cuda.allocations, cuda.host_allocations, cuda.streams, cuda.graphs) == (0, {}, {}, set(), 0)


def test_refusal_of_cuda_says_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimulatedCuda()
    importing(monkeypatch, {"cuda.bindings.driver": fake_bindings(cuda)})
    driver = opening.open_cuda()
    stream, memory = driver.create_stream(), driver.allocate(100)
    with pytest.raises(CudaError, match=r"refused to copy 200 bytes on the GPU: said by CUDA \(error 999\)"):
        driver.on_device(memory, memory, 200, stream)


def test_drivers_have_all_that_the_seam_asks_for() -> None:
    asked = {name for name in vars(SimulatedCuda) if not name.startswith("_")} - {
        "check",
        "depth",
        "enqueue",
        "graphs",
        "is_recording",
    }
    for driver in (pycuda_driver.PyCudaDriver, bindings_driver.BindingsDriver):
        assert asked <= set(vars(driver)), driver


def test_engines_folder_is_what_the_bundle_carries(make_machine: MachineMaker, tmp_path: Path) -> None:
    """A bundle that was copied whole brings its engines with it."""
    machine = make_machine()
    copied = machine.bundle.copy_to(tmp_path / "elsewhere")
    assert (copied.path / FOLDER).is_dir()
    assert dataclasses.replace(machine, bundle=copied).tracker().runtime.startswith("tensorrt")
