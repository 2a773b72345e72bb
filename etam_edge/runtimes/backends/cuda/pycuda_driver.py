"""CUDA through PyCUDA, which is common on Jetsons.

The primary context is retained, and pushed for each call. `pycuda.autoinit` would create another context, which
TensorRT and torch do not use; and PyCUDA aborts when a thread ends whose context is still pushed.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

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

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING; PyCUDA has no name for it."""


class PyCudaDriver:
    """The `Cuda` protocol over PyCUDA, which does not support CUDA graphs.

    Args:
        index: of the GPU.

    Raises:
        PackageMissingError: PyCUDA is not installed.
        PackageBrokenError: PyCUDA cannot be imported.
        RuntimeUnavailableError: there is no NVIDIA driver, or no such GPU.
    """

    name = "PyCUDA"
    can_capture = False

    def __init__(self, index: int = 0) -> None:
        self._driver = driver = import_pycuda()
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            if "no CUDA-capable device" not in str(error):
                raise no_driver(error) from error
            count = 0
        check_index(index, count)
        device = driver.Device(index)
        try:
            self._context = device.retain_primary_context()
        except driver.Error as error:
            raise refused(f"start on GPU {index}", error) from error
        integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self.gpu = Gpu(
            name=str(device.name()),
            compute_capability=tuple(device.compute_capability()),
            memory=int(device.total_memory()),
            integrated=integrated,
            multiprocessors=int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)),
            board=board_model() if integrated else "",
        )
        # PyCUDA frees resources when their objects are garbage collected, so the objects are kept here.
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    @contextmanager
    def _asked_to(self, what: str) -> Iterator[Any]:
        try:
            with self.current():
                yield self._driver
        except self._driver.Error as error:
            raise refused(what, error) from error

    def allocate(self, nbytes: int) -> int:
        with self._asked_to(f"allocate {nbytes} bytes") as driver:
            try:
                allocation = driver.mem_alloc(nbytes)
            except driver.MemoryError as error:
                raise self._no_room(nbytes, "the GPU") from error
            address = int(allocation)
            driver.memset_d8(address, 0, nbytes)
            # The memory is cleared on the default stream, for which other streams do not wait.
            driver.Context.synchronize()
        self._allocations[address] = allocation
        return address

    def free(self, address: int) -> None:
        with self._asked_to("free memory"):
            self._allocations.pop(address).free()

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        with self._asked_to(f"page-lock {nbytes} bytes") as driver:
            flags = driver.host_alloc_flags.DEVICEMAP if mapped else 0
            try:
                array = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
            except driver.MemoryError as error:
                raise self._no_room(nbytes, "page-locked host memory") from error
            array[:] = 0
            device_address = int(array.base.get_device_pointer()) if mapped else 0
        return HostMemory(array.ctypes.data, device_address, nbytes, array)

    def free_host(self, memory: HostMemory) -> None:
        with self._asked_to("free page-locked memory"):
            memory.owner.base.free()  # type: ignore[attr-defined]

    def memory(self) -> tuple[int, int]:
        with self._asked_to("tell how much memory is free") as driver:
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def create_stream(self) -> int:
        with self._asked_to("create a stream") as driver:
            stream = driver.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        with self._asked_to("destroy a stream"):
            # PyCUDA destroys the stream with its object; the context has to be current for that.
            del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        with self._asked_to("finish the work it was given"):
            self._streams[stream].synchronize()

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self._asked_to(f"copy {nbytes} bytes to the GPU") as driver:
            driver.memcpy_htod_async(target, _host(source, nbytes), self._streams[stream])

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self._asked_to(f"copy {nbytes} bytes from the GPU") as driver:
            driver.memcpy_dtoh_async(_host(target, nbytes), source, self._streams[stream])

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        with self._asked_to(f"copy {nbytes} bytes on the GPU") as driver:
            driver.memcpy_dtod_async(target, source, nbytes, self._streams[stream])

    def begin_capture(self, stream: int) -> None:
        raise self._no_graphs()

    def end_capture(self, stream: int) -> int:
        raise self._no_graphs()

    def launch(self, graph: int, stream: int) -> None:
        raise self._no_graphs()

    def destroy_graph(self, graph: int) -> None:
        raise self._no_graphs()

    def _no_graphs(self) -> CudaError:
        return CudaError("PyCUDA has no CUDA graphs; install cuda-bindings in its place")

    def _no_room(self, nbytes: int, where: str) -> CudaError:
        try:
            free, total = self.memory()
        except CudaError:
            return no_room(nbytes, where, None, self.gpu.memory)
        return no_room(nbytes, where, free, total)


def import_pycuda() -> Any:
    """PyCUDA's driver module.

    Raises:
        PackageMissingError: PyCUDA is not installed.
        PackageBrokenError: PyCUDA cannot be imported.
        RuntimeUnavailableError: it is installed, and there is no NVIDIA driver.
    """
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise PackageMissingError(f"PyCUDA is not installed; {INSTALL}") from error
    except ImportError as error:
        if "libcuda" in str(error) or "nvcuda" in str(error):
            raise no_driver(error) from error
        raise PackageBrokenError(f"PyCUDA is installed but cannot be imported ({error}); build it again") from error


def _host(address: int, nbytes: int) -> Any:
    """Host memory as an object with the buffer protocol, which PyCUDA needs."""
    return (ctypes.c_byte * nbytes).from_address(address)
