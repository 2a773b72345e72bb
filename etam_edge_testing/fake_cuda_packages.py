"""Stand-ins for the driver modules of PyCUDA and cuda-bindings on a simulated GPU, as strict as the real modules.

The signatures are those of PyCUDA's `wrap_cudadrv.cpp` and of cuda-bindings' `driver`. A call without a current context
fails, as it does in the real modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from etam_edge.errors import CudaError
from etam_edge_testing.simulated import SimulatedCuda


def fake_pycuda(cuda: SimulatedCuda) -> Any:
    """The module `pycuda.driver`."""

    class Error(Exception):
        pass

    class OutOfMemory(Error):
        pass

    def need_context() -> None:
        if not cuda.depth:
            raise Error("failed: invalid device context")

    class Context:
        def push(self) -> None:
            cuda.depth += 1

        @staticmethod
        def pop() -> None:
            need_context()
            cuda.depth -= 1

        @staticmethod
        def synchronize() -> None:
            need_context()

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return cuda.gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return cuda.gpu.compute_capability

        def total_memory(self) -> int:
            return cuda.gpu.memory

        def get_attribute(self, attribute: str) -> int:
            if attribute == "multiprocessors":
                return cuda.gpu.multiprocessors
            assert attribute == "integrated"
            return int(cuda.gpu.integrated)

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            need_context()
            assert flags == 1
            self.handle = cuda.create_stream()

        def __del__(self) -> None:
            cuda.destroy_stream(self.handle)

        def synchronize(self) -> None:
            need_context()
            cuda.synchronize(self.handle)

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            need_context()
            try:
                self._address = cuda.allocate(size)
            except CudaError as error:
                raise OutOfMemory("cuMemAlloc failed: out of memory") from error

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            need_context()
            cuda.free(self._address)

    class Pinned:
        def __init__(self, size: int, flags: int) -> None:
            need_context()
            self.memory = cuda.allocate_host(size, mapped=flags == 2)
            self.__array_interface__ = {
                "data": (self.memory.address, False),
                "shape": (size,),
                "typestr": "|u1",
                "version": 3,
            }

        def get_device_pointer(self) -> int:
            need_context()
            assert self.memory.device_address
            return self.memory.device_address

        def free(self) -> None:
            need_context()
            cuda.free_host(self.memory)

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert np.dtype(dtype) == np.uint8
        return np.asarray(Pinned(shape, mem_flags))

    def memset_d8(dest: int, data: int, size: int) -> None:
        need_context()
        cuda.check(dest, size)

    def address_of(buffer: Any) -> tuple[int, int]:
        array = np.frombuffer(buffer, dtype=np.uint8)
        return array.ctypes.data, array.nbytes

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        need_context()
        cuda.to_device(dest, *address_of(src), stream.handle)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        need_context()
        address, nbytes = address_of(dest)
        cuda.to_host(address, src, nbytes, stream.handle)

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        need_context()
        cuda.on_device(dest, src, size, stream.handle)

    def mem_get_info() -> tuple[int, int]:
        need_context()
        return cuda.memory()

    return SimpleNamespace(
        Error=Error,
        MemoryError=OutOfMemory,
        Context=Context,
        Device=Device,
        Stream=Stream,
        device_attribute=SimpleNamespace(INTEGRATED="integrated", MULTIPROCESSOR_COUNT="multiprocessors"),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
        init=lambda flags=0: None,
        mem_alloc=DeviceAllocation,
        mem_get_info=mem_get_info,
        pagelocked_empty=pagelocked_empty,
        memset_d8=memset_d8,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        memcpy_dtod_async=memcpy_dtod_async,
    )


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_UNKNOWN = 999


def fake_bindings(cuda: SimulatedCuda) -> Any:
    """The module `cuda.bindings.driver`."""
    ok = (Result.CUDA_SUCCESS,)
    attributes = {
        "CU_DEVICE_ATTRIBUTE_INTEGRATED": int(cuda.gpu.integrated),
        "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": cuda.gpu.multiprocessors,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cuda.gpu.compute_capability[0],
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cuda.gpu.compute_capability[1],
    }
    host: dict[int, Any] = {}
    recorded = itertools.count(1)
    graphs: dict[int, int] = {}

    def asked(function: Callable[..., Any], values: int = 0) -> Callable[..., tuple[Any, ...]]:
        """Return a function that needs a current context and returns a status and `values` values."""

        def call(*arguments: Any) -> tuple[Any, ...]:
            if not cuda.depth:
                return Result.CUDA_ERROR_INVALID_CONTEXT, *[None] * values
            try:
                value = function(*arguments)
            except CudaError as error:
                full = "no room" in str(error)
                return Result.CUDA_ERROR_OUT_OF_MEMORY if full else Result.CUDA_ERROR_UNKNOWN, *[None] * values
            return ok if values == 0 else (*ok, value)

        return call

    def push(context: str) -> tuple[Any, ...]:
        assert context == "primary"
        cuda.depth += 1
        return ok

    def pop() -> tuple[Any, ...]:
        cuda.depth -= 1
        return *ok, "primary"

    def allocate_host(nbytes: int, flags: int) -> int:
        memory = cuda.allocate_host(nbytes, mapped=flags == 2)
        host[memory.address] = memory
        return memory.address

    def end_capture(stream: int) -> int:
        handle = next(recorded)
        graphs[handle] = cuda.end_capture(stream)
        return handle if graphs[handle] else 0

    def only(value: Any) -> Callable[..., tuple[Any, ...]]:
        return lambda *arguments: (*ok, value)

    return SimpleNamespace(
        CUresult=Result,
        CUdevice_attribute=SimpleNamespace(**{name: name for name in attributes}),
        CUstream_flags=SimpleNamespace(CU_STREAM_NON_BLOCKING=1),
        CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
        CU_MEMHOSTALLOC_DEVICEMAP=2,
        cuInit=lambda flags: ok,
        cuDeviceGetCount=only(1),
        cuDeviceGet=lambda index: (*ok, index),
        cuDeviceGetName=lambda length, device: (*ok, cuda.gpu.name.encode().ljust(length, b"\0")),
        cuDeviceGetAttribute=lambda name, device: (*ok, attributes[name]),
        cuDeviceTotalMem=only(cuda.gpu.memory),
        cuDevicePrimaryCtxRetain=only("primary"),
        cuCtxPushCurrent=push,
        cuCtxPopCurrent=pop,
        cuCtxSynchronize=asked(lambda: None),
        cuGetErrorString=lambda status: (*ok, b"said by CUDA"),
        cuMemAlloc=asked(cuda.allocate, 1),
        cuMemFree=asked(cuda.free),
        cuMemsetD8=asked(lambda target, value, nbytes: cuda.check(target, nbytes)),
        cuMemGetInfo=lambda: (*ok, *cuda.memory()) if cuda.depth else (Result.CUDA_ERROR_INVALID_CONTEXT, None, None),
        cuMemHostAlloc=asked(allocate_host, 1),
        cuMemHostGetDevicePointer=asked(lambda address, flags: host[address].device_address, 1),
        cuMemFreeHost=asked(lambda address: cuda.free_host(host.pop(address))),
        cuStreamCreate=asked(lambda flags: cuda.create_stream() if flags == 1 else None, 1),
        cuStreamDestroy=asked(cuda.destroy_stream),
        cuStreamSynchronize=asked(cuda.synchronize),
        cuMemcpyHtoDAsync=asked(cuda.to_device),
        cuMemcpyDtoHAsync=asked(cuda.to_host),
        cuMemcpyDtoDAsync=asked(cuda.on_device),
        cuStreamBeginCapture=asked(lambda stream, mode: cuda.begin_capture(stream)),
        cuStreamEndCapture=asked(end_capture, 1),
        cuGraphInstantiate=asked(lambda graph, flags: graphs[graph], 1),
        cuGraphDestroy=asked(lambda graph: None),
        cuGraphLaunch=asked(cuda.launch),
        cuGraphExecDestroy=asked(cuda.destroy_graph),
    )
