"""The TensorRT backend. The memory of all objects stays on the GPU, and engines read and write it in place.

Per frame, the frame and a few integers are uploaded, and results are downloaded; all work runs on one stream. Tensors
are bound by name and address (`set_tensor_address`, `execute_async_v3`), so the memory bank is never copied.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from etam_edge.bundle import GRAPH_NAMES, OBJECTS, Bundle, GraphSignature
from etam_edge.bundle.engines import (
    FLAVOURS,
    FOLDER,
    ONE_OBJECT,
    TENSORRT,
    TENSORRT_RTX,
    built_for,
    check_engines,
    engine_path,
)
from etam_edge.errors import BundleError, CudaError, EtamError, InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.buffers import Buffer, Device
from etam_edge.runtimes.backends.cuda.device import CudaDevice
from etam_edge.runtimes.backends.cuda.driver import Cuda
from etam_edge.runtimes.backends.cuda.open import open_cuda
from etam_edge.runtimes.backends.tensorrt.cuda_graphs import CudaGraphs
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import (
    MODULES,
    create_context,
    create_runtime,
    device_memory_of,
    import_tensorrt,
    platform_here,
)

ALIGNMENT = 256
"""Alignment in bytes that TensorRT's kernels require; allocations have it."""
MAX_CONTEXTS = 4
"""Largest number of execution contexts of one graph. Sessions with up to this many different numbers of objects can be
interleaved without creating contexts again."""
_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""NumPy types by the names of TensorRT's types; `trt.nptype` uses names that newer NumPy does not have."""


class TensorRTBackend:
    """The four graphs of a bundle in TensorRT, or in TensorRT for RTX.

    Args:
        bundle: a bundle with engines that `etam-edge build` wrote for this GPU and this TensorRT.
        cuda: the GPU.
        trt: the module `tensorrt` or `tensorrt_rtx`.
        cuda_graphs: capture calls as CUDA graphs if the CUDA package supports it.
        graphs: names of those that are loaded, all by default. Sessions need all.

    Raises:
        BundleError: there are no engines, or they are damaged, or of another GPU, TensorRT or graph.
        CudaError: TensorRT cannot load the engines, or there is not enough memory.
    """

    def __init__(
        self, bundle: Bundle, cuda: Cuda, trt: Any, cuda_graphs: bool = True, graphs: Sequence[str] = GRAPH_NAMES
    ) -> None:
        flavour = TENSORRT_RTX if trt.__name__.startswith(MODULES[TENSORRT_RTX]) else TENSORRT
        platform = platform_here(flavour, trt, cuda.gpu)
        sidecars = check_engines(bundle, platform, graphs)
        # Of the graphs that take several objects at a time; the others are run for one after another.
        several = [sidecar.max_objects for name, sidecar in sidecars.items() if name not in ONE_OBJECT]
        self.max_objects: int | None = min(several, default=1)
        self.name = f"{flavour} {platform.tensorrt} ({cuda.gpu.name})"
        self._device = CudaDevice(cuda)
        self.device: Device = self._device
        self._bundle = bundle
        self._cuda = cuda
        self._log = _make_log(trt)
        self._graphs = CudaGraphs(cuda, self._device.stream, enabled=cuda_graphs)
        self._loaded: dict[str, _LoadedGraph] = {}
        self._runtime: list[Any] = []
        # If loading fails half-way, this releases in the right order what was loaded.
        self._release = weakref.finalize(self, _release, self._device, self._graphs, self._loaded, self._runtime)
        self._release.atexit = False
        with cuda.current():
            # A list is cleared from its end, so the runtime is released before its logger.
            self._runtime += [self._log, create_runtime(trt, self._log)]
            executables = {}
            for name in graphs:
                path = engine_path(bundle, platform, name)
                executables[name] = self._deserialize(path)
                _check_signature(trt, executables[name], bundle.manifest.graphs[name].signature, path)
            scratch = self._allocate_scratch(executables)
            for name, executable in executables.items():
                signature = bundle.manifest.graphs[name].signature
                self._loaded[name] = _LoadedGraph(
                    trt, name, executable, signature, self._device, scratch, sidecars[name].max_objects, self._log
                )

    def _deserialize(self, path: Path) -> Any:
        try:
            executable = self._runtime[-1].deserialize_cuda_engine(path.read_bytes())
        except (RuntimeError, OSError) as error:
            self._log.lines.append(str(error))
            executable = None
        if executable is None:
            raise CudaError(f"TensorRT cannot load {path}: {self._log.last()}; {_rebuild(self._bundle)} --overwrite")
        return executable

    def _allocate_scratch(self, executables: Mapping[str, Any]) -> Buffer:
        """Working memory for all execution contexts: they run one after the other on one stream, and share it."""
        sizes = {name: device_memory_of(executable) for name, executable in executables.items()}
        try:
            return self._device.empty((max(1, *sizes.values()),), "uint8")
        except CudaError as error:
            largest = max(sizes, key=lambda name: sizes[name])
            raise CudaError(
                f"there is not enough memory on the GPU for the working memory of '{largest}' ({error}); close other "
                "programs, or build engines for fewer objects with a smaller `max_objects`"
            ) from error

    def check_objects(self, count: int) -> None:
        if self.max_objects is not None and count > self.max_objects:
            raise InputError(
                f"{count} objects are more than the engines of {self._bundle.path} take ({self.max_objects}); build "
                f"them again with: etam-edge build {self._bundle.path} --max-objects {count} --overwrite, or remove one"
            )

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Enqueue one graph. Errors on the GPU itself are raised by the next download.

        Raises:
            InputError: more objects than the engines take.
            CudaError: TensorRT or CUDA reported an error.
        """
        loaded = self._loaded.get(graph)
        if loaded is None:
            raise CudaError(f"the engine for '{graph}' has been closed; load the bundle again")
        tensors = {**inputs, **outputs}
        count = loaded.objects(tensors)
        if count > loaded.max_objects:
            self.check_objects(count)
            raise ValueError(f"graph '{graph}' runs for one object at a time, and was given {count}")
        stream = self._device.stream
        with self._cuda.current():
            context, dropped = loaded.context_for(count)
            if dropped is not None:
                # Captured calls hold the context that they were captured from.
                self._graphs.forget((graph, dropped))
            key = ((graph, count), *(tensors[name].address for name in loaded.tensors))
            self._graphs.run(key, lambda: loaded.enqueue(context, tensors, stream))

    def close(self) -> None:
        """Free engines and captured graphs now instead of on garbage collection. Sessions cannot be used afterwards."""
        self._release()


class _LoadedGraph:
    """One engine and its execution contexts, one for each number of objects that is in use.

    A context has one set of input shapes. Sessions with different numbers of objects would otherwise set them again on
    every call, and their captured CUDA graphs would never be launched.
    """

    def __init__(
        self,
        trt: Any,
        name: str,
        executable: Any,
        signature: GraphSignature,
        device: CudaDevice,
        scratch: Buffer,
        max_objects: int,
        log: Any,
    ) -> None:
        self._trt, self._name, self._log, self._device = trt, name, log, device
        self.max_objects = max_objects
        self._executable, self._scratch = executable, scratch
        # By number of objects, in order of last use.
        self._contexts: OrderedDict[int, Any] = OrderedDict()
        self.tensors = {tensor.name: tensor for tensor in (*signature.inputs, *signature.outputs)}
        self._inputs = signature.inputs
        self._output_names = {tensor.name for tensor in signature.outputs}
        # Rows of narrow tensors may not be aligned as TensorRT requires: they are copied through aligned memory.
        self._places = {
            tensor.name: device.empty(tensor.sized(max_objects), tensor.dtype)
            for tensor in self.tensors.values()
            if tensor.shape[:1] == (OBJECTS,) and tensor.nbytes(1) % ALIGNMENT
        }

    def objects(self, tensors: Mapping[str, Buffer]) -> int:
        """Number of objects of a call.

        Raises:
            ValueError: a tensor is missing, or has another shape or type than the signature for this number.
        """
        if tensors.keys() != self.tensors.keys():
            raise ValueError(f"graph '{self._name}' has tensors {[*self.tensors]}, and was given {[*tensors]}")
        count = next((tensors[tensor.name].shape[0] for tensor in self._inputs if OBJECTS in tensor.shape), 1)
        for name, tensor in self.tensors.items():
            buffer = tensors[name]
            if (buffer.shape, buffer.dtype.name) != (tensor.sized(count), tensor.dtype):
                raise ValueError(
                    f"'{name}' of graph '{self._name}' is {tensor.dtype} {tensor.sized(count)}, and was given "
                    f"{buffer.dtype} {buffer.shape}"
                )
        return count

    def context_for(self, count: int) -> tuple[Any, int | None]:
        """The execution context for a number of objects, and the number whose context was dropped for it, if any."""
        dropped = None
        if count not in self._contexts:
            context: Any = create_context(self._trt, self._executable, self._scratch)
            if context is None:
                raise CudaError(
                    f"TensorRT cannot create an execution context for '{self._name}': {self._log.last()}; close other "
                    "programs, or build engines for fewer objects with a smaller `max_objects`"
                )
            for tensor in self._inputs:
                if OBJECTS in tensor.shape and not context.set_input_shape(tensor.name, tensor.sized(count)):
                    raise self._refused(f"takes no {count} objects")
            if len(self._contexts) == MAX_CONTEXTS:
                # Its last call may still be running.
                self._device.synchronize()
                dropped, _ = self._contexts.popitem(last=False)
            self._contexts[count] = context
        self._contexts.move_to_end(count)
        return self._contexts[count], dropped

    def enqueue(self, context: Any, tensors: Mapping[str, Buffer], stream: int) -> None:
        """Enqueue a call on tensors at these addresses."""
        moved = {name: buffer for name, buffer in tensors.items() if self._place(name, buffer) is not buffer}
        for name, buffer in moved.items():
            if name not in self._output_names:
                self._device.copy(buffer, self._place(name, buffer))
        for name, buffer in tensors.items():
            if not context.set_tensor_address(name, self._place(name, buffer).address):
                raise self._refused(f"takes no address for '{name}'")
        if not context.execute_async_v3(stream):
            raise self._refused("failed")
        for name, buffer in moved.items():
            if name in self._output_names:
                self._device.copy(self._place(name, buffer), buffer)

    def _place(self, name: str, buffer: Buffer) -> Buffer:
        return buffer if buffer.address % ALIGNMENT == 0 else self._places[name].rows(0, buffer.shape[0])

    def _refused(self, what: str) -> CudaError:
        return CudaError(
            f"TensorRT's engine for graph '{self._name}' {what}: {self._log.last()}; build the engines again, and "
            "if it fails again, run in ONNX Runtime"
        )


def load_tensorrt(bundle: Bundle, flavour: str, device: int = 0) -> TensorRTBackend:
    """Load a bundle's engines on a GPU of this machine.

    Args:
        bundle: with engines.
        flavour: "tensorrt" or "tensorrt-rtx".
        device: index of the GPU, counted from 0.

    Raises:
        RuntimeUnavailableError: TensorRT, a CUDA package, a driver or a GPU is missing.
        BundleError: there are no engines for this GPU and this TensorRT.
        CudaError: they cannot be loaded.
    """
    return TensorRTBackend(bundle, trt=import_tensorrt(flavour), cuda=open_cuda(device))


def best_tensorrt(bundle: Bundle, device: int = 0) -> TensorRTBackend | None:
    """Load the bundle's engines if they can run on this machine, otherwise return None.

    Nothing is imported for a bundle without engines. If engines cannot be used, because TensorRT is not installed, the
    driver is too old or they belong to another GPU, a warning is logged once for each bundle, because ONNX Runtime is
    much slower.

    Args:
        device: index of the GPU.
    """
    if not (bundle.path / FOLDER).is_dir():
        return None
    reasons = []
    built = {platform.flavour for platform in built_for(bundle)}
    for flavour in FLAVOURS:
        if flavour not in built:
            continue
        try:
            return load_tensorrt(bundle, flavour, device)
        except (RuntimeUnavailableError, BundleError, CudaError) as error:
            reasons.append(str(error))
    if reasons:
        _warn_once(f"the TensorRT engines of {bundle.path} cannot be used: {'; '.join(reasons)}")
    return None


@cache
def _warn_once(text: str) -> None:
    logging.getLogger(__name__).warning("%s. The bundle runs in ONNX Runtime, which is slower", text)


def _release(device: CudaDevice, graphs: CudaGraphs, loaded: dict[str, _LoadedGraph], runtime: list[Any]) -> None:
    """Wait for the GPU, then release contexts before engines, and engines before the runtime."""
    try:
        with device.cuda.current():
            try:
                device.synchronize()
                graphs.clear()
            finally:
                loaded.clear()
                runtime.clear()
    except EtamError:
        # After an error of the GPU nothing can be freed, and the error was reported already.
        loaded.clear()
        runtime.clear()


def _check_signature(trt: Any, executable: Any, signature: GraphSignature, path: Path) -> None:
    """Compare the inputs and outputs of an engine with those of the graph.

    Raises:
        BundleError: they differ.
    """
    found = set()
    for index in range(executable.num_io_tensors):
        name = executable.get_tensor_name(index)
        is_input = executable.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        kind = str(executable.get_tensor_dtype(name)).rsplit(".", maxsplit=1)[-1]
        found.add((name, is_input, _TYPES.get(kind, kind), tuple(executable.get_tensor_shape(name))))
    wanted = {
        (tensor.name, is_input, tensor.dtype, tuple(-1 if size == OBJECTS else size for size in tensor.shape))
        for is_input, tensors in ((True, signature.inputs), (False, signature.outputs))
        for tensor in tensors
    }
    if found != wanted:
        differing = sorted({name for name, *_ in found ^ wanted})
        raise BundleError(
            f"{path} has other inputs or outputs than the bundle's graph ({', '.join(differing)}); build the engines "
            f"again with: etam-edge build {path.parents[2]} --overwrite"
        )


def _rebuild(bundle: Bundle) -> str:
    return f"build the engines again with: etam-edge build {bundle.path}"


def _make_log(trt: Any) -> Any:
    """A logger that keeps TensorRT's last errors, for the message of the call that failed."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(" ".join(text.split()))

        def last(self) -> str:
            """The last errors, which are then forgotten."""
            errors = list(self.lines)[-3:]
            self.lines.clear()
            return "; ".join(errors) or "it gave no reason"

    return Log()
