"""The steps of the self-test, as they run in a process of their own (`child.py`)."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.benchmark.machine import resident_memory
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import FLAVOURS, FOLDER, TENSORRT, TENSORRT_RTX, stale
from etam_edge.errors import CudaError, RuntimeUnavailableError
from etam_edge.machine_test.answers import (
    TOLERANCES,
    Answers,
    Tolerance,
    answer_all,
    answer_graph,
    answer_stream,
    compare_graphs,
    compare_streams,
    frame_shape,
    same_results,
)
from etam_edge.machine_test.scene import FRAMES, click, frame, play
from etam_edge.recipe import FP32
from etam_edge.runtimes import Tracker

EARLY = 50
"""The frame from which on memory must stay as it is: the memory bank is full after 16, and calls are recorded."""
LATE = 50
"""Frames after the timed ones, until memory is read again."""
DEVICE_GROWTH = 4 << 20
"""Bytes by which the GPU's memory in use may grow: CUDA allocates 2 MB at a time, and other programs use the GPU."""
SHARED_GROWTH = 64 << 20
"""The same for a process, and for memory that GPU and CPU share, which the system and all programs use."""
QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class Settings:
    """What a self-test does, in types that JSON has.

    Attributes:
        bundle: path of the bundle.
        folder: for engines and files of the test, beside its results.
        runtime, provider, device, threads: as of `Tracker.load`; "auto" is resolved by the step "machine".
        own_engines: whether engines are built into `folder`; False takes those of the bundle.
        max_objects, workspace, optimization_level, external_tactics: of the engines that are built.
        frames: number of frames that are timed.
        against, write_answers: paths of answers, or "".
    """

    bundle: str
    folder: str
    runtime: str
    provider: str
    device: int | None
    threads: int | None
    own_engines: bool
    max_objects: int
    workspace: int
    optimization_level: int | None
    external_tactics: bool
    frames: int
    against: str
    write_answers: str


@dataclass(frozen=True)
class Outcome:
    """What a step found.

    Attributes:
        passed: whether it is as it should be.
        text: in one line.
        values: figures, in types that JSON has.
    """

    passed: bool
    text: str
    values: dict[str, Any] = field(default_factory=dict)


class Steps:
    """The steps by name. What several of them need is loaded once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cuda_opened: Any = None

    def run(self, name: str) -> Outcome:
        """Run a step: "machine", or "build track" with the name of a graph.

        Raises:
            EtamError: the step failed.
        """
        verb, _, graph = name.partition(" ")
        steps: dict[str, Callable[[str], Outcome]] = {
            "machine": self._machine,
            "bundle": self._check_bundle,
            "cuda": self._try_cuda,
            "parse": self._parse,
            "build": self._build,
            "load": self._load,
            "graph": self._graph,
            "answers": self._answers,
            "resume": self._resume,
            "sessions": self._sessions,
            "time": self._time,
        }
        return steps[verb](graph)

    # --- what is here ---

    def _machine(self, _: str) -> Outcome:
        """Choose the runtime, and describe it."""
        runtime, why = self._settings.runtime, ""
        if runtime == "auto" and self._settings.provider == "auto":
            try:
                self._trt(TENSORRT)
                self._cuda()
                runtime = TENSORRT
            except (RuntimeUnavailableError, CudaError) as error:
                runtime, why = "onnxruntime", f"; not TensorRT: {error}"
        elif runtime == "auto":
            runtime = "onnxruntime"
        if runtime not in FLAVOURS:
            return Outcome(True, f"{runtime}{why}", {"runtime": runtime, "engines": False})
        trt, cuda = self._trt(runtime), self._cuda()
        platform = self._platform(runtime)
        missing = stale(self.bundle, platform)
        has_engines = (self.bundle.path / FOLDER / platform.fingerprint).is_dir() and missing is None
        free, total = cuda.memory()
        values = {
            "runtime": runtime,
            "engines": has_engines,
            "platform": str(platform),
            "cuda package": cuda.name,
            "cuda graphs": cuda.can_capture,
            "free memory": free,
            "total memory": total,
            "tensorrt": str(trt.__version__),
        }
        text = f"{platform}; {cuda.name}, {_mb(free)} of {_mb(total)} free"
        return Outcome(True, text if cuda.can_capture else f"{text}, no CUDA graphs", values)

    def _check_bundle(self, _: str) -> Outcome:
        manifest = self.bundle.manifest
        return Outcome(True, f"{manifest.model.name}, {manifest.precision}, {_mb(self.bundle.size)}, hashes agree")

    def _try_cuda(self, _: str) -> Outcome:
        """Copies, mapped memory, a recorded graph, and another thread, without TensorRT."""
        from etam_edge.runtimes.backends.cuda.device import CudaDevice
        from etam_edge.runtimes.backends.tensorrt.cuda_graphs import CudaGraphs

        cuda = self._cuda()
        device = CudaDevice(cuda)
        content = np.arange(1 << 18, dtype=np.float32)
        buffers = [device.empty(content.shape, "float32") for _ in range(2)]
        shared = device.shared(content.shape, "float32")
        found: list[str] = []

        def check(what: str, value: np.ndarray, wanted: np.ndarray) -> None:
            if not np.array_equal(value, wanted):
                raise CudaError(f"{what} gives other data than was written")
            found.append(what)

        device.upload(content, buffers[0])
        device.copy(buffers[0], buffers[1])
        check("copies", device.download(buffers[1]), content)
        device.upload(content, shared)
        check("mapped memory" if cuda.gpu.integrated else "shared memory", device.download(shared), content)
        graphs = CudaGraphs(cuda, device.stream, enabled=True)
        for index in range(4):
            device.upload(content + index, buffers[0])
            graphs.run(("copy",), lambda: device.copy(buffers[0], buffers[1]))
            if not np.array_equal(device.download(buffers[1]), content + index):
                raise CudaError("a recorded CUDA graph copies other data than the call that it was recorded from")
        if cuda.can_capture:
            found.append("CUDA graphs")
        graphs.clear()
        answers: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: answers.append(device.download(buffers[1])))
        thread.start()
        thread.join()
        check("another thread", answers[0] if answers else np.empty(0), content + 3)
        return Outcome(True, f"{cuda.name}: {', '.join(found)}")

    # --- engines ---

    def _parse(self, _: str) -> Outcome:
        from etam_edge.exporters.tensorrt.builder import parse_graph

        counts: dict[str, dict[str, int]] = {}
        with self._current():
            for name in GRAPH_NAMES:
                counts[name] = parse_graph(self._trt(), self.bundle.graph_path(name))
        layers = ", ".join(f"{name} {count['layers']}" for name, count in counts.items())
        half = sum(count["half constants"] for count in counts.values())
        reported = sum(count["half constants reported as FLOAT"] for count in counts.values())
        constants = f"; {reported} of {half} fp16 constants are reported as FLOAT" if reported else ""
        return Outcome(True, f"layers: {layers}{constants}", counts)

    def _build(self, graph: str) -> Outcome:
        from etam_edge.exporters.tensorrt.builder import BuildOptions
        from etam_edge.exporters.tensorrt.engine_set import engine_inspector, write_engine

        settings, runtime, platform = self._settings, self._settings.runtime, self._platform()
        capabilities = (platform.compute_capability,) if runtime == TENSORRT_RTX else ()
        options = BuildOptions(
            settings.max_objects,
            workspace=settings.workspace,
            compute_capabilities=capabilities,
            optimization_level=settings.optimization_level,
            external_tactics=settings.external_tactics,
        )
        folder = Path(settings.folder) / FOLDER / platform.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        with self._current():
            inspect = engine_inspector(self._trt()) if runtime == TENSORRT else None
            built = write_engine(self._trt(), self.bundle, graph, platform, options, folder, inspect)
        warnings = [text for severity, text in built.log if severity == "WARNING"]
        text = f"engine of {_mb(len(built.plan))}"
        if warnings:
            text += f"; {len(warnings)} warnings, the first: {warnings[0]}"
        return Outcome(True, text, {"engine": len(built.plan), "warnings": warnings})

    def _load(self, _: str) -> Outcome:
        begin = time.perf_counter()
        tracker = self.tracker
        seconds = time.perf_counter() - begin
        text = f"{tracker.runtime}, {self.objects} object{'s' if self.objects > 1 else ''} at a time are tested"
        return Outcome(True, text, {"runtime": tracker.runtime, "seconds": seconds, "int8 form": tracker.int8_form})

    # --- answers ---

    def _graph(self, name: str) -> Outcome:
        tracker, objects = self._for_one_graph(name)
        found = answer_graph(tracker, name, objects)
        if not self._settings.against:
            return Outcome(True, f"{len(found)} outputs are finite")
        errors = compare_graphs(found, self.wanted.graphs[name])
        worst = max(errors, key=lambda output: errors[output])
        passed = errors[worst] <= self.tolerance.error
        text = f"outputs differ by up to {errors[worst]:.2g} ({worst}), allowed are {self.tolerance.error:g}"
        return Outcome(passed, text, {"errors": errors})

    def _answers(self, _: str) -> Outcome:
        settings = self._settings
        text, passed, values = f"{FRAMES} frames are finite", True, {}
        if settings.write_answers:
            answers = answer_all(self.tracker, self.objects)
            answers.save(settings.write_answers)
            stream, text = answers.frames, f"answers for {FRAMES} frames are written"
        else:
            stream = answer_stream(self.tracker, self.objects)
        if settings.against:
            difference = compare_streams(stream, self.wanted.frames)
            passed = difference.within(self.tolerance)
            text = f"{difference}; allowed are {self.tolerance.error:g} and {100 * self.tolerance.agreement:g} %"
            values = {**vars(difference), "against": self.wanted.about}
        return Outcome(passed, text, values)

    def _resume(self, _: str) -> Outcome:
        """A saved session goes on as the one that was saved."""
        shape, tracker = frame_shape(self.bundle), self.tracker
        with tempfile.TemporaryDirectory() as folder, tracker.start_session(max_objects=self.objects) as session:
            play(session, 0, 7, shape, self.objects)
            session.save(Path(folder) / "state.npz")
            wanted = play(session, 7, FRAMES, shape, self.objects)
            with tracker.resume_session(Path(folder) / "state.npz") as resumed:
                found = play(resumed, 7, FRAMES, shape, self.objects)
        return self._as_before(same_results(found, wanted), "a session that was saved and resumed")

    def _sessions(self, _: str) -> Outcome:
        """Two sessions with different numbers of objects, interleaved, answer as each does alone."""
        shape, tracker = frame_shape(self.bundle), self.tracker
        counts = (1, self.objects)
        alone = []
        for count in counts:
            with tracker.start_session(max_objects=count) as session:
                alone.append(play(session, 0, FRAMES, shape, count))
        sessions = [tracker.start_session(max_objects=count) for count in counts]
        together: list[list[Any]] = [[] for _ in counts]
        for index in range(FRAMES):
            for session, count, results in zip(sessions, counts, together, strict=True):
                results += play(session, index, index + 1, shape, count)
        for session in sessions:
            session.close()
        error = max(same_results(found, wanted) for found, wanted in zip(together, alone, strict=True))
        return self._as_before(error, f"two sessions of {counts[0]} and {counts[1]} objects, interleaved,")

    def _as_before(self, error: float, what: str) -> Outcome:
        """The outcome of running the same frames twice on one runtime: equal to the last bit, or nearly."""
        passed = error <= TOLERANCES[FP32].error
        how = "the same bit for bit" if error == 0 else f"with logits that differ by up to {error:.2g}"
        return Outcome(passed, f"{what} answer {how}" if "two" in what else f"{what} answers {how}", {"error": error})

    # --- time and memory ---

    def _time(self, how: str) -> Outcome:
        """Time frames with one object and a full memory, and read the memory in use before and after them."""
        plain = bool(how)
        tracker = self._tracker_without_graphs() if plain else self.tracker
        shape, frames = frame_shape(self.bundle), self._settings.frames
        images = [frame(index, shape) for index in range(20)]
        used: dict[int, dict[str, int]] = {}
        times = []
        last = EARLY + frames + (0 if plain else LATE)
        with tracker.start_session(max_objects=1) as session:
            for index in range(last + 1):
                begin = time.perf_counter()
                session.track(images[index % len(images)], prompts={1: click(shape)} if index == 0 else None)
                times.append(1e3 * (time.perf_counter() - begin))
                if index in (EARLY, last) and not plain:
                    used[index] = self._memory_in_use(tracker)
        timed = np.array(times[EARLY + 1 : EARLY + 1 + frames])
        quantiles = {f"p{quantile}": float(np.percentile(timed, quantile)) for quantile in QUANTILES}
        values: dict[str, Any] = {"milliseconds": quantiles, "frames": frames}
        text = ", ".join(f"{name} {value:.2f}" for name, value in quantiles.items())
        text = f"{frames} frames of {shape[1]} x {shape[0]}, one object: {text} ms"
        if plain:
            return Outcome(True, text, values)
        values["memory"] = {str(index): one for index, one in used.items()}
        grown = [f"{name} {_mb(used[EARLY][name])}, at frame {last} {_mb(used[last][name])}" for name in used[last]]
        text += f"; memory at frame {EARLY}: {'; '.join(grown)}"
        passed = all(used[last][name] - used[EARLY][name] <= self._allowed_growth(name) for name in used[last])
        return Outcome(passed, text if passed else f"{text}: it grows", values)

    def _memory_in_use(self, tracker: Tracker) -> dict[str, int]:
        """Bytes in use: by this process, and of the GPU by all of them."""
        found = {"process": resident_memory(Path("/")) or 0}
        if self._settings.runtime in FLAVOURS:
            device: Any = tracker.backend.device
            device.synchronize()
            free, total = device.cuda.memory()
            found["GPU"] = total - free
        return found

    def _allowed_growth(self, name: str) -> int:
        return DEVICE_GROWTH if name == "GPU" and not self._cuda().gpu.integrated else SHARED_GROWTH

    # --- what steps share ---

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.load(self._settings.bundle)

    @property
    def engines(self) -> Bundle:
        """The bundle with the engines under test: itself, or its manifest in the folder where they were built."""
        return Bundle(Path(self._settings.folder), self.bundle.manifest) if self._settings.own_engines else self.bundle

    @cached_property
    def tracker(self) -> Tracker:
        settings = self._settings
        if settings.runtime in FLAVOURS:
            return self._tensorrt_tracker(cuda_graphs=True)
        options: dict[str, Any] = {"provider": settings.provider, "device": settings.device}
        if settings.threads is not None:
            options["threads"] = settings.threads
        return Tracker.load(settings.bundle, settings.runtime, **options)

    def _for_one_graph(self, name: str) -> tuple[Tracker, int]:
        """What runs a graph alone, so that it can be tested where another one fails; and the number of objects."""
        if self._settings.runtime not in FLAVOURS:
            return self.tracker, self.objects
        from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend

        backend = TensorRTBackend(self.engines, self._cuda(), self._trt(), graphs=(name,))
        return Tracker(self.bundle, backend), min(2, backend.max_objects or 2)

    def _tracker_without_graphs(self) -> Tracker:
        # The engines are loaded twice otherwise, which may need too much memory.
        self.__dict__.pop("tracker", None)
        return self._tensorrt_tracker(cuda_graphs=False)

    def _tensorrt_tracker(self, cuda_graphs: bool) -> Tracker:
        from etam_edge.runtimes.backends.tensorrt.backend import TensorRTBackend

        return Tracker(self.bundle, TensorRTBackend(self.engines, self._cuda(), self._trt(), cuda_graphs))

    @cached_property
    def objects(self) -> int:
        """Number of objects that are tracked: two, or one where the engines take one."""
        return min(2, self.tracker.backend.max_objects or 2)

    @cached_property
    def wanted(self) -> Answers:
        answers = Answers.load(self._settings.against)
        answers.check_bundle(self.bundle, self._settings.against)
        return answers

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES[self.bundle.manifest.precision]

    def _trt(self, flavour: str = "") -> Any:
        from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt

        return import_tensorrt(flavour or self._settings.runtime)

    def _cuda(self) -> Any:
        from etam_edge.runtimes.backends.cuda.open import open_cuda

        if self._cuda_opened is None:
            self._cuda_opened = open_cuda(self._settings.device or 0)
        return self._cuda_opened

    def _platform(self, flavour: str = "") -> Any:
        from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here

        flavour = flavour or self._settings.runtime
        return platform_here(flavour, self._trt(flavour), self._cuda().gpu)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The GPU's context, which TensorRT's builder expects."""
        with self._cuda().current() if self._settings.runtime in FLAVOURS else nullcontext():
            yield


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
