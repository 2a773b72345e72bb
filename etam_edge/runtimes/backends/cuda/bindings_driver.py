"""CUDA through NVIDIA's cuda-bindings. Its wheels need no compiler, and it supports CUDA graphs."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etam_edge.errors import CudaError
from etam_edge.runtimes.backends.cuda.driver import (
    INSTALL,
    Gpu,
    HostMemory,
    PackageBrokenError,
    PackageMissingError,
    board_model,
    check_index,
    no_driver,
    no_room,
    refused,
)

_MODULES = ("cuda.bindings.driver", "cuda.cuda")
"""Modules of the driver API: from version 12.8 on, and before."""


class BindingsDriver:
    """The `Cuda` protocol over cuda-bindings of CUDA 12 or newer.

    Args:
        index: of the GPU.

    Raises:
        PackageMissingError: cuda-bindings is not installed.
        PackageBrokenError: cuda-bindings cannot be imported.
        RuntimeUnavailableError: there is no NVIDIA driver, or no such GPU.
    """

    name = "cuda-bindings"
    can_capture = True

    def __init__(self, index: int = 0) -> None:
        self._driver = driver = import_bindings()
        check_index(index, _count(driver))
        device = self._ask("find the GPU", driver.cuDeviceGet, index)
        self._context = self._ask(f"start on GPU {index}", driver.cuDevicePrimaryCtxRetain, device)
        kinds = driver.CUdevice_attribute

        def attribute(name: str) -> int:
            return int(
                self._ask(
                    "describe the GPU",
                    driver.cuDeviceGetAttribute,
                    getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}"),
                    device,
                )
            )

        name = self._ask("name the GPU", driver.cuDeviceGetName, 256, device)
        self.gpu = Gpu(
            name=bytes(name).split(b"\0", 1)[0].decode(errors="replace").strip(),
            compute_capability=(attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
            memory=int(self._ask("measure the GPU's memory", driver.cuDeviceTotalMem, device)),
            integrated=bool(attribute("INTEGRATED")),
            multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
            board=board_model() if attribute("INTEGRATED") else "",
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        self._ask("make its context current", self._driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def allocate(self, nbytes: int) -> int:
        driver = self._driver
        with self.current():
            status, pointer = driver.cuMemAlloc(nbytes)
            if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise self._no_room(nbytes, "the GPU")
            self._check(status, f"allocate {nbytes} bytes")
            self._ask("clear memory", driver.cuMemsetD8, pointer, 0, nbytes)
            # The memory is cleared on the default stream, for which other streams do not wait.
            self._ask("clear memory", driver.cuCtxSynchronize)
        return int(pointer)

    def free(self, address: int) -> None:
        with self.current():
            self._ask("free memory", self._driver.cuMemFree, address)

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        driver = self._driver
        with self.current():
            status, address = driver.cuMemHostAlloc(nbytes, driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
            if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise self._no_room(nbytes, "page-locked host memory")
            self._check(status, f"page-lock {nbytes} bytes")
            ctypes.memset(int(address), 0, nbytes)
            device_address = 0
            if mapped:
                device_address = int(self._ask("map host memory", driver.cuMemHostGetDevicePointer, int(address), 0))
        return HostMemory(int(address), device_address, nbytes)

    def free_host(self, memory: HostMemory) -> None:
        with self.current():
            self._ask("free page-locked memory", self._driver.cuMemFreeHost, memory.address)

    def memory(self) -> tuple[int, int]:
        with self.current():
            free, total = self._ask("tell how much memory is free", self._driver.cuMemGetInfo)
        return int(free), int(total)

    def create_stream(self) -> int:
        flags = int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        with self.current():
            return int(self._ask("create a stream", self._driver.cuStreamCreate, flags))

    def destroy_stream(self, stream: int) -> None:
        with self.current():
            self._ask("destroy a stream", self._driver.cuStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        with self.current():
            self._ask("finish the work it was given", self._driver.cuStreamSynchronize, stream)

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self.current():
            what = f"copy {nbytes} bytes to the GPU"
            self._ask(what, self._driver.cuMemcpyHtoDAsync, target, source, nbytes, stream)

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self.current():
            what = f"copy {nbytes} bytes from the GPU"
            self._ask(what, self._driver.cuMemcpyDtoHAsync, target, source, nbytes, stream)

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self.current():
            what = f"copy {nbytes} bytes on the GPU"
            self._ask(what, self._driver.cuMemcpyDtoDAsync, target, source, nbytes, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: GPU work of other threads must not break the capture.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with self.current():
            self._ask("record a CUDA graph", self._driver.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        driver = self._driver
        with self.current():
            status, recorded = driver.cuStreamEndCapture(stream)
            if int(status) or not int(recorded):
                return 0
            status, graph = driver.cuGraphInstantiate(recorded, 0)
            driver.cuGraphDestroy(recorded)
            return 0 if int(status) else int(graph)

    def launch(self, graph: int, stream: int) -> None:
        with self.current():
            self._ask("launch a CUDA graph", self._driver.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        with self.current():
            self._ask("destroy a CUDA graph", self._driver.cuGraphExecDestroy, graph)

    # --- parts ---

    def _ask(self, what: str, function: Any, *arguments: Any) -> Any:
        """Call a function of the driver and return its result: one value, a list of several, or None.

        Raises:
            CudaError: the call failed.
        """
        status, *values = function(*arguments)
        self._check(status, what)
        return values[0] if len(values) == 1 else values or None

    def _check(self, status: Any, what: str) -> None:
        if int(status):
            raise refused(what, _text(self._driver, status))

    def _no_room(self, nbytes: int, where: str) -> CudaError:
        try:
            free, total = self.memory()
        except CudaError:
            return no_room(nbytes, where, None, self.gpu.memory)
        return no_room(nbytes, where, free, total)


def import_bindings() -> Any:
    """The driver module of cuda-bindings.

    Raises:
        PackageMissingError: it is not installed.
        PackageBrokenError: it cannot be imported.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            raise PackageBrokenError(
                f"cuda-bindings is installed but cannot be imported ({error}); install it again"
            ) from error
    raise PackageMissingError(f"cuda-bindings is not installed; {INSTALL}")


def _count(driver: Any) -> int:
    """Number of GPUs.

    Raises:
        RuntimeUnavailableError: there is no NVIDIA driver, or it does not start.
    """
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:
        # Without libcuda, the first call of the bindings raises RuntimeError.
        raise no_driver(error) from error
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return 0
    if int(status):
        raise no_driver(_text(driver, status))
    status, count = driver.cuDeviceGetCount()
    return 0 if int(status) else int(count)


def _text(driver: Any, status: Any) -> str:
    failed, text = driver.cuGetErrorString(status)
    description = "" if int(failed) or not text else f"{bytes(text).decode(errors='replace')} "
    return f"{description}(error {int(status)})"
