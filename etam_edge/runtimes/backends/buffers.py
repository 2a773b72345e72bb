"""Memory of a device, as sessions see it: plain tensors with an address.

Sessions allocate everything once and hand out addresses; a backend reads and writes there. What an address means is the
device's business.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Buffer:
    """A contiguous tensor on a device. `owner` keeps its memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: object

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Buffer:
        """The part [start:stop] of the leading axis."""
        assert 0 <= start <= stop <= self.shape[0]
        stride = self.nbytes // self.shape[0]
        return Buffer(self.address + start * stride, (stop - start, *self.shape[1:]), self.dtype, self.owner)

    def at(self, index: int) -> Buffer:
        """The sub-tensor [index] of the leading axis."""
        row = self.rows(index, index + 1)
        return Buffer(row.address, row.shape[1:], self.dtype, self.owner)


class Device(Protocol):
    """Where buffers live."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Memory with unspecified but finite content."""

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Memory for what the host reads or writes on every frame. It is not copied from or to within the device."""

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        """Host to device. Shapes and types must agree."""

    def download(self, source: Buffer) -> np.ndarray:
        """Device to host, a copy."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Within the device. Sizes must agree."""


class HostDevice:
    """The host's own memory."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        # Zeroed pages are not touched until they are used: a bank for many objects costs nothing before they come.
        array = np.zeros(shape, dtype=dtype)
        return Buffer(array.ctypes.data, array.shape, array.dtype, array)

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self.empty(shape, dtype)

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        assert (array.shape, array.dtype) == (target.shape, target.dtype)
        host_view(target)[...] = array

    def download(self, source: Buffer) -> np.ndarray:
        return host_view(source).copy()

    def copy(self, source: Buffer, target: Buffer) -> None:
        assert source.nbytes == target.nbytes
        ctypes.memmove(target.address, source.address, source.nbytes)


def host_view(buffer: Buffer) -> np.ndarray:
    """A host buffer as an array that shares its memory."""
    raw = (ctypes.c_byte * buffer.nbytes).from_address(buffer.address)
    return np.frombuffer(memoryview(raw), dtype=buffer.dtype).reshape(buffer.shape)
