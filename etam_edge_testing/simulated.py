"""A simulated GPU and a simulated TensorRT, to test the TensorRT backend on machines that have neither.

Device memory is host memory. Work is queued and done only when the stream is waited for, so that a missing
synchronisation changes results. Every address is checked against the allocations. Nothing here tells how fast a real
GPU is, or how a real TensorRT compiles a graph.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from etam_edge.bundle import GRAPH_NAMES, Bundle, sha256_of
from etam_edge.bundle.engines import ONE_OBJECT, EnginePlatform, Sidecar, writing_engines
from etam_edge.errors import CudaError
from etam_edge.runtimes.backends.cuda.driver import Gpu, HostMemory, no_room

ALIGNMENT = 256
GUARD = 4096
"""Bytes before and after an allocation that are not allocated."""
ORIN = Gpu("Orin", (8, 7), 8 << 30, integrated=True, multiprocessors=8)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 40 << 30, integrated=False, multiprocessors=108)
VERSION = "10.3.0"
MAGIC = b"simulated engine\n"
DEVICE_MEMORY = {"encode": 6000, "prompt": 1000, "remember": 2000, "track": 9000}
"""Bytes of working memory of each graph's execution context."""

Work = Callable[[], None]


class SimulatedCuda:
    """The `Cuda` protocol on host memory.

    Attributes:
        allocations: size of each allocation of device memory, by address.
        host_allocations: size of each allocation of page-locked memory, by address.
        calls: number of calls of each function.
        room: bytes of device memory that can still be allocated.
        breaks_recording: whether recording a CUDA graph fails.
    """

    name = "simulated"

    def __init__(self, gpu: Gpu = A100, can_capture: bool = True) -> None:
        self.gpu = gpu
        self.can_capture = can_capture
        self.allocations: dict[int, int] = {}
        self.host_allocations: dict[int, int] = {}
        self.streams: set[int] = set()
        self.calls: dict[str, int] = defaultdict(int)
        self.room = gpu.memory
        self.breaks_recording = False
        self._contexts = threading.local()
        self._mapped: dict[int, int] = {}
        self._blocks: dict[int, np.ndarray] = {}
        self._queues: dict[int, list[Work]] = {}
        self._recording: dict[int, list[Work]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._handles = iter(range(1, 1 << 30))

    @property
    def depth(self) -> int:
        """How often the context has been made current in the calling thread, and not been given up again."""
        return getattr(self._contexts, "depth", 0)

    @depth.setter
    def depth(self, value: int) -> None:
        self._contexts.depth = value

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    # --- memory ---

    def allocate(self, nbytes: int) -> int:
        self.calls["allocate"] += 1
        self._refuse_while_recording("allocated")
        free, total = self.memory()
        if nbytes > free:
            raise no_room(nbytes, "the GPU", free, total)
        address = self._block(nbytes)
        self.allocations[address] = nbytes
        return address

    def memory(self) -> tuple[int, int]:
        return max(0, self.room - sum(self.allocations.values())), self.gpu.memory

    def free(self, address: int) -> None:
        self.calls["free"] += 1
        self._refuse_while_recording("freed")
        self._finish()
        del self.allocations[address]
        del self._blocks[address]

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        self.calls["allocate_host"] += 1
        self._refuse_while_recording("page-locked")
        address = self._block(nbytes)
        self.host_allocations[address] = nbytes
        if mapped:
            self._mapped[address] = nbytes
        return HostMemory(address, address if mapped else 0, nbytes)

    def free_host(self, memory: HostMemory) -> None:
        self.calls["free_host"] += 1
        self._refuse_while_recording("freed")
        assert not any(self._queues.values()), "page-locked memory is freed while work is queued"
        del self.host_allocations[memory.address]
        self._mapped.pop(memory.address, None)
        del self._blocks[memory.address]

    def _refuse_while_recording(self, what: str) -> None:
        """As CUDA, which forbids these calls to a thread that records."""
        if self._recording:
            raise CudaError(f"memory cannot be {what} while a graph is recorded")

    def _block(self, nbytes: int) -> int:
        assert nbytes > 0
        block = np.zeros(nbytes + 2 * GUARD + ALIGNMENT, dtype=np.uint8)
        address = block.ctypes.data + GUARD
        address += -address % ALIGNMENT
        self._blocks[address] = block
        return address

    def check(self, address: int, nbytes: int) -> None:
        """
        Raises:
            CudaError: [address, address + nbytes) does not lie inside one allocation of the device.
        """
        _check(address, nbytes, {**self.allocations, **self._mapped}, "device")

    # --- streams ---

    def create_stream(self) -> int:
        stream = next(self._handles)
        self.streams.add(stream)
        self._queues[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        assert not self._queues.pop(stream), "a stream is destroyed while work is queued"
        self.streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        self.calls["synchronize"] += 1
        if stream in self._recording:
            raise CudaError("a stream that is recorded cannot be waited for")
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()

    def is_recording(self, stream: int) -> bool:
        return stream in self._recording

    def enqueue(self, stream: int, work: Work) -> None:
        self._recording.get(stream, self._queues[stream]).append(work)

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self.check(target, nbytes)
        _check(source, nbytes, self.host_allocations, "page-locked host")
        self._copy("to_device", target, source, nbytes, stream)

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        _check(target, nbytes, self.host_allocations, "page-locked host")
        self.check(source, nbytes)
        self._copy("to_host", target, source, nbytes, stream)

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        for address in (target, source):
            _check(address, nbytes, self.allocations, "device")
        self._copy("on_device", target, source, nbytes, stream)

    def _copy(self, kind: str, target: int, source: int, nbytes: int, stream: int) -> None:
        self.calls[kind] += 1
        self.calls[f"{kind} bytes"] += nbytes
        self.enqueue(stream, lambda: ctypes.memmove(target, source, nbytes) and None)

    def _finish(self) -> None:
        for stream in list(self._queues):
            if stream not in self._recording:
                self.synchronize(stream)

    # --- graphs ---

    def begin_capture(self, stream: int) -> None:
        self.calls["begin_capture"] += 1
        self._recording[stream] = []

    def end_capture(self, stream: int) -> int:
        work = self._recording.pop(stream)
        if self.breaks_recording:
            return 0
        graph = next(self._handles)
        self._graphs[graph] = work
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.calls["launch"] += 1
        for work in self._graphs[graph]:
            self.enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self.calls["destroy_graph"] += 1
        del self._graphs[graph]

    @property
    def graphs(self) -> int:
        """Recorded graphs that have not been destroyed."""
        return len(self._graphs)


def _check(address: int, nbytes: int, allocations: dict[int, int], kind: str) -> None:
    for start, size in allocations.items():
        if start <= address and address + nbytes <= start + size:
            return
    raise CudaError(f"{nbytes} bytes at {address:#x} are in no {kind} allocation")


# --- TensorRT ---


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4

    def __str__(self) -> str:
        return f"Severity.{self.name}"


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, VERBOSE = (
        Severity.INTERNAL_ERROR,
        Severity.ERROR,
        Severity.WARNING,
        Severity.VERBOSE,
    )

    def __init__(self) -> None:
        self.made = True


class DataType(Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT8 = "int8"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    BOOL = "bool"


class AllocationStrategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


_ORT_TYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int32)": DataType.INT32,
    "tensor(uint8)": DataType.UINT8,
}


def simulated_tensorrt(cuda: SimulatedCuda, version: str = VERSION, rtx: bool = False) -> ModuleType:
    """A module with those names of TensorRT that the runtime uses; its engines run in ONNX Runtime.

    `executed` of the module counts calls of `execute_async_v3` by graph, and `shift` moves the addresses it uses.
    """
    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = version
    module.ILogger, module.DataType, module.TensorIOMode = ILogger, DataType, TensorIOMode
    if not version.startswith("8."):
        module.ExecutionContextAllocationStrategy = AllocationStrategy
    module.executed = defaultdict(int)
    module.shift = {}
    module.fails = None

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert logger.made
            assert cuda.depth, "TensorRT finds no context"
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            if not content.startswith(MAGIC):
                self._logger.log(Severity.ERROR, "Error Code 1: Serialization (magic tag does not match)")
                return None
            text, graph = content[len(MAGIC) :].split(b"\n", 1)
            header = json.loads(text)
            built_by = header.get("tensorrt", module.__version__)
            if built_by != module.__version__:
                self._logger.log(Severity.ERROR, f"Error Code 1: Serialization (version {built_by} does not match)")
                return None
            return SimulatedEngine(cuda, module, self._logger, header, graph)

    module.Runtime = Runtime
    return module


class SimulatedEngine:
    """As much of ICudaEngine as is used, over an ONNX graph."""

    def __init__(self, cuda: SimulatedCuda, module: Any, logger: Any, header: dict[str, Any], graph: bytes) -> None:
        import onnxruntime

        # As the ONNX Runtime backend does with one thread: equal to the last bit.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        # A GPU's int8 products do not saturate; those of a CPU without VNNI would.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.cuda, self.module, self.logger = cuda, module, logger
        self.name: str = header["name"]
        self.max_objects: int = header["max_objects"]
        self.tensors = {
            value.name: SimpleNamespace(
                mode=mode,
                dtype=_ORT_TYPES[value.type],
                shape=tuple(-1 if isinstance(size, str) else size for size in value.shape),
            )
            for mode, values in (
                (TensorIOMode.INPUT, self.session.get_inputs()),
                (TensorIOMode.OUTPUT, self.session.get_outputs()),
            )
            for value in values
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name].mode

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    @property
    def device_memory_size(self) -> int:
        return DEVICE_MEMORY[self.name]

    @property
    def device_memory_size_v2(self) -> int:
        self._only_from_10()
        return DEVICE_MEMORY[self.name]

    def create_execution_context(self, strategy: AllocationStrategy) -> SimulatedContext | None:
        self._only_from_10()
        assert strategy is AllocationStrategy.USER_MANAGED, "the context would allocate memory of its own"
        return SimulatedContext(self)

    def create_execution_context_without_device_memory(self) -> SimulatedContext | None:
        return SimulatedContext(self)

    def _only_from_10(self) -> None:
        if self.module.__version__.startswith("8."):
            raise AttributeError("TensorRT 8 has no such name")


class SimulatedContext:
    """As much of IExecutionContext as is used."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: tuple[int, int] | None = None
        self._ran = False

    def set_device_memory(self, memory: int, size: int) -> None:
        """As TensorRT, aligned and large enough; and the allocation has to be there when a call runs."""
        assert memory % ALIGNMENT == 0, "device memory is not aligned"
        assert size >= self._engine.device_memory_size, "device memory is too small"
        self._memory = memory, size

    @property
    def device_memory(self) -> int:
        return self._memory[0] if self._memory else 0

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        """As TensorRT 8 takes it, without a size."""
        self.set_device_memory(memory, self._engine.device_memory_size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self._engine.tensors[name].shape
        fits = len(shape) == len(wanted) and all(
            1 <= size <= self._engine.max_objects if known == -1 else size == known
            for size, known in zip(shape, wanted, strict=True)
        )
        if not fits:
            return self._refuse(f"setInputShape: {name} {shape} is outside of the profile")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % ALIGNMENT:
            return self._refuse(f"setTensorAddress: {name} at {memory:#x} is not aligned")
        self._addresses[name] = memory + self._engine.module.shift.get(name, 0)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        cuda = engine.cuda
        assert cuda.depth, "TensorRT finds no context"
        if engine.module.fails == engine.name:
            return self._refuse(f"enqueueV3: {engine.name} failed")
        if self._memory is None:
            return self._refuse("enqueueV3: no device memory is set")
        cuda.check(*self._memory)
        dynamic = [n for n, t in engine.tensors.items() if t.mode is TensorIOMode.INPUT and -1 in t.shape]
        if any(name not in self._shapes for name in dynamic):
            return self._refuse("enqueueV3: not all input shapes are set")
        if cuda.is_recording(stream_handle) and not self._ran:
            # On a GPU the first call loads kernels, which cannot be recorded.
            return self._refuse("enqueueV3: the first call cannot be captured")
        self._ran = True
        counts = {self._shapes[name][0] for name in dynamic}
        if len(counts) > 1:
            return self._refuse("enqueueV3: input shapes differ in their leading axis")
        count = counts.pop() if counts else 1
        places: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        for name, tensor in engine.tensors.items():
            if name not in self._addresses:
                return self._refuse(f"enqueueV3: no address is set for {name}")
            shape = tuple(count if size == -1 else size for size in tensor.shape)
            kind = np.dtype(tensor.dtype.value)
            cuda.check(self._addresses[name], int(np.prod(shape)) * kind.itemsize)
            places[name] = self._addresses[name], shape, kind
        engine.module.executed[engine.name] += 1
        cuda.enqueue(stream_handle, lambda: _execute(engine, places))
        return True

    def _refuse(self, text: str) -> bool:
        self._engine.logger.log(Severity.WARNING, "a warning that is not told")
        self._engine.logger.log(Severity.ERROR, f"IExecutionContext::{text}")
        return False


def _execute(engine: SimulatedEngine, places: dict[str, tuple[int, tuple[int, ...], np.dtype]]) -> None:
    """In ONNX Runtime at the bound addresses, as the ONNX Runtime backend binds them."""
    binding = engine.session.io_binding()
    for name, (address, shape, kind) in places.items():
        # Again: the memory may have been freed since.
        engine.cuda.check(address, int(np.prod(shape)) * kind.itemsize)
        bind = binding.bind_input if engine.tensors[name].mode is TensorIOMode.INPUT else binding.bind_output
        bind(name, "cpu", 0, kind.type, shape, address)
    engine.session.run_with_iobinding(binding)


def simulated_plan(name: str, max_objects: int, tensorrt: str, graph: bytes) -> bytes:
    """A serialized engine of a simulated TensorRT.

    Args:
        name: of the graph.
        max_objects: largest number of objects of its profile.
        tensorrt: version that built it; no other version loads it.
        graph: an ONNX file, which ONNX Runtime runs.
    """
    header = {"name": name, "max_objects": max_objects, "tensorrt": tensorrt}
    return MAGIC + json.dumps(header).encode() + b"\n" + graph


def write_simulated_engines(bundle: Bundle, platform: EnginePlatform, max_objects: int = 4) -> None:
    """Engines of a bundle that `simulated_tensorrt` loads, in the place of those that were there."""
    with writing_engines(bundle, platform, overwrite=True) as draft:
        for name in GRAPH_NAMES:
            path = draft / f"{name}.engine"
            objects = 1 if name in ONE_OBJECT else max_objects
            path.write_bytes(simulated_plan(name, objects, platform.tensorrt, bundle.graph_path(name).read_bytes()))
            sidecar = Sidecar(
                platform=platform,
                graph_sha256=bundle.manifest.graphs[name].sha256,
                sha256=sha256_of(path),
                size=path.stat().st_size,
                max_objects=objects,
                precision=bundle.manifest.precision,
                device_memory=0,
                etam_edge="0",
                created="2026-01-01T00:00:00+00:00",
            )
            path.with_suffix(".json").write_text(sidecar.to_json())
