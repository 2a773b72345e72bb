"""Device memory as sessions see it: contiguous tensors, each with an address.

A session allocates all its buffers once and passes their addresses to the backend, which reads and writes in place.
Only the device knows what an address refers to.

Sizes are checked by raising, never by `assert`: under `python -O` an assertion vanishes, and a copy of the wrong size
would overwrite other memory.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Buffer:
    """A contiguous tensor on a device.

    Attributes:
        address: of its first byte.
        shape, dtype: as of a NumPy array.
        owner: object that keeps the memory alive; parts of a buffer share it.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: object

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Buffer:
        """The part [start:stop] of the leading axis.

        Raises:
            IndexError: it exceeds the buffer.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of a buffer of shape {self.shape}")
        stride = self.nbytes // self.shape[0]
        return Buffer(self.address + start * stride, (stop - start, *self.shape[1:]), self.dtype, self.owner)

    def at(self, index: int) -> Buffer:
        """The sub-tensor [index] of the leading axis.

        Raises:
            IndexError: it exceeds the buffer.
        """
        row = self.rows(index, index + 1)
        return Buffer(row.address, row.shape[1:], self.dtype, self.owner)


class Device(Protocol):
    """Allocates buffers and moves data between them and the host."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New memory with unspecified but finite content."""

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New memory for data that the host writes or reads on every frame.

        A GPU that shares the CPU's memory can place it where both access it. Such a buffer is not a valid source or
        target of `copy`.
        """

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        """Copy from the host to the device.

        Raises:
            ValueError: shapes or types differ.
        """

    def download(self, source: Buffer) -> np.ndarray:
        """A copy on the host, once all work submitted before is done."""

    def view(self, source: Buffer) -> np.ndarray | None:
        """The buffer's own memory as an array, not to be written to; None where the host cannot read it in place."""

    def download_all(self, sources: Sequence[Buffer]) -> list[np.ndarray]:
        """Copies of several buffers on the host, as `download`, with a single wait."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy within the device.

        Raises:
            ValueError: sizes differ.
        """


class HostDevice:
    """The host's own memory as a device."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        # The system provides zeroed pages on first use, so room for many objects costs nothing until they are added.
        array = np.zeros(shape, dtype=dtype)
        return Buffer(array.ctypes.data, array.shape, array.dtype, array)

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self.empty(shape, dtype)

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        check_upload(array, target)
        host_view(target)[...] = array

    def download(self, source: Buffer) -> np.ndarray:
        return host_view(source).copy()

    def view(self, source: Buffer) -> np.ndarray | None:
        return host_view(source)

    def download_all(self, sources: Sequence[Buffer]) -> list[np.ndarray]:
        return [self.download(source) for source in sources]

    def copy(self, source: Buffer, target: Buffer) -> None:
        check_copy(source, target)
        ctypes.memmove(target.address, source.address, source.nbytes)


def check_upload(array: np.ndarray, target: Buffer) -> None:
    """
    Raises:
        ValueError: the array has another shape or type than the buffer.
    """
    if (array.shape, array.dtype) != (target.shape, target.dtype):
        raise ValueError(f"{array.dtype} {array.shape} does not fit a buffer of {target.dtype} {target.shape}")


def check_copy(source: Buffer, target: Buffer) -> None:
    """
    Raises:
        ValueError: the buffers have different sizes.
    """
    if source.nbytes != target.nbytes:
        raise ValueError(f"a buffer of {source.nbytes} bytes does not fit one of {target.nbytes} bytes")


def host_view(buffer: Buffer) -> np.ndarray:
    """A host buffer as an array that shares its memory."""
    raw = (ctypes.c_byte * buffer.nbytes).from_address(buffer.address)
    return np.frombuffer(memoryview(raw), dtype=buffer.dtype).reshape(buffer.shape)
