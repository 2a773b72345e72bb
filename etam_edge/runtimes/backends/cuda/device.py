"""Memory of a CUDA device: allocation, and copies between host and device."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from etam_edge.errors import CudaError
from etam_edge.runtimes.backends.buffers import Buffer, check_copy, check_upload
from etam_edge.runtimes.backends.cuda.driver import Cuda, HostMemory

STAGING = 8 << 20
"""Bytes of page-locked staging memory for each direction. Two frames of 1024 px or one of 1920 x 1080 fit, so their
upload never waits. Larger arrays are copied in parts."""
_ALIGNMENT = 256


class CudaDevice:
    """The `Device` protocol on one stream of a GPU.

    All work runs in stream order. Only downloads wait, and an upload if the staging memory or the target is in use.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.stream = cuda.create_stream()
        self._up = cuda.allocate_host(STAGING, mapped=False)
        self._down = cuda.allocate_host(STAGING, mapped=False)
        # Bytes of `_up` whose copy to the device may not be done yet.
        self._in_flight = 0
        weakref.finalize(self, _release, cuda, self.stream, self._up, self._down).atexit = False

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Zeroed device memory, freed with the last buffer that refers to it.

        Raises:
            CudaError: not enough memory.
        """
        kind = np.dtype(dtype)
        address = self.cuda.allocate(math.prod(shape) * kind.itemsize)
        return Buffer(address, tuple(shape), kind, _DeviceMemory(self, address))

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """As `empty`; on an integrated GPU, host memory mapped for the device, which needs no copies.

        Raises:
            CudaError: not enough memory.
        """
        if not self.cuda.gpu.integrated:
            return self.empty(shape, dtype)
        kind = np.dtype(dtype)
        memory = self.cuda.allocate_host(math.prod(shape) * kind.itemsize, mapped=True)
        return Buffer(memory.device_address, tuple(shape), kind, _MappedMemory(self, memory))

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        check_upload(array, target)
        array = np.ascontiguousarray(array)
        if isinstance(target.owner, _MappedMemory):
            # The device may still read the current content.
            self.synchronize()
            ctypes.memmove(target.owner.on_host(target.address), array.ctypes.data, array.nbytes)
            return
        for start in range(0, array.nbytes, STAGING):
            size = min(STAGING, array.nbytes - start)
            place = self._stage(size)
            ctypes.memmove(place, array.ctypes.data + start, size)
            self.cuda.to_device(target.address + start, place, size, self.stream)

    def download(self, source: Buffer) -> np.ndarray:
        return self.download_all([source])[0]

    def download_all(self, sources: Sequence[Buffer]) -> list[np.ndarray]:
        arrays = [np.empty(source.shape, source.dtype) for source in sources]
        # What arrives in host memory with the next wait: target, source and size.
        arriving: list[tuple[int, int, int]] = []
        used = 0

        def wait() -> None:
            self.synchronize()
            for target, place, size in arriving:
                ctypes.memmove(target, place, size)
            arriving.clear()

        for array, source in zip(arrays, sources, strict=True):
            if isinstance(source.owner, _MappedMemory):
                arriving.append((array.ctypes.data, source.owner.on_host(source.address), array.nbytes))
                continue
            for start in range(0, array.nbytes, STAGING):
                size = min(STAGING, array.nbytes - start)
                if used + size > STAGING:
                    wait()
                    used = 0
                place = self._down.address + used
                self.cuda.to_host(place, source.address + start, size, self.stream)
                arriving.append((array.ctypes.data + start, place, size))
                used += -(-size // _ALIGNMENT) * _ALIGNMENT
        wait()
        return arrays

    def view(self, source: Buffer) -> np.ndarray | None:
        return None

    def copy(self, source: Buffer, target: Buffer) -> None:
        check_copy(source, target)
        self.cuda.on_device(target.address, source.address, source.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until all work of the stream is done.

        Raises:
            CudaError: some of it failed.
        """
        self.cuda.synchronize(self.stream)
        self._in_flight = 0

    def _stage(self, size: int) -> int:
        """Address of free staging memory; waits for the stream if there is not enough."""
        if self._in_flight + size > STAGING:
            self.synchronize()
        place = self._up.address + self._in_flight
        self._in_flight += -(-size // _ALIGNMENT) * _ALIGNMENT
        return place


class _DeviceMemory:
    """Frees device memory when garbage collected. Refers to the device, so that the stream outlives the memory."""

    def __init__(self, device: CudaDevice, address: int) -> None:
        self.device = device
        weakref.finalize(self, _quietly, device.cuda.free, address).atexit = False


class _MappedMemory:
    """Mapped host memory, freed when it is garbage collected."""

    def __init__(self, device: CudaDevice, memory: HostMemory) -> None:
        self.device = device
        self._memory = memory
        weakref.finalize(self, _free_mapped, device.cuda, device.stream, memory).atexit = False

    def on_host(self, device_address: int) -> int:
        return self._memory.address + device_address - self._memory.device_address


def _release(cuda: Cuda, stream: int, *staging: HostMemory) -> None:
    _quietly(cuda.synchronize, stream)
    for memory in staging:
        _quietly(cuda.free_host, memory)
    _quietly(cuda.destroy_stream, stream)


def _free_mapped(cuda: Cuda, stream: int, memory: HostMemory) -> None:
    _quietly(cuda.synchronize, stream)
    _quietly(cuda.free_host, memory)


def _quietly(function: Callable[..., None], *arguments: object) -> None:
    """Free a resource and ignore CUDA errors: after an error of the GPU nothing can be freed, and it was reported."""
    with suppress(CudaError):
        function(*arguments)
