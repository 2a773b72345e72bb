"""Several small tensors in one piece of device memory, so that one copy carries them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from etam_edge.bundle import TensorSpec
from etam_edge.runtimes.backends.buffers import Buffer, Device

ALIGNMENT = 256
"""Alignment in bytes of each tensor, which TensorRT's kernels require."""


class Block:
    """Tensors in one allocation.

    Args:
        device: that holds it.
        tensors: in this order.
        rows: of tensors that have an object axis.

    Attributes:
        tensors: the tensors' buffers by name, which are parts of the block.
        nbytes: size of the block.
    """

    def __init__(self, device: Device, tensors: Iterable[TensorSpec], rows: int) -> None:
        self._device = device
        self._starts: dict[str, int] = {}
        specs = {tensor.name: tensor for tensor in tensors}
        end = 0
        for name, tensor in specs.items():
            self._starts[name] = end
            end += -(-tensor.nbytes(rows) // ALIGNMENT) * ALIGNMENT
        self.nbytes = end
        self._memory = memory = device.empty((end,), "uint8")
        self.tensors = {
            name: Buffer(memory.address + self._starts[name], tensor.sized(rows), np.dtype(tensor.dtype), memory.owner)
            for name, tensor in specs.items()
        }
        self._on_host = np.zeros(end, dtype=np.uint8)

    def upload(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy values to the device: the first rows of each tensor. The other rows are undefined."""
        for name, value in values.items():
            self._view(self._on_host, name, len(value))[...] = value
        self._device.upload(self._on_host, self._memory)

    def part(self, rows: int) -> Buffer:
        """The part of the block that holds the first rows of every tensor."""
        last = max(self._starts, key=lambda name: self._starts[name])
        return self._memory.rows(0, self._starts[last] + self.tensors[last].rows(0, rows).nbytes)

    def split(self, content: np.ndarray, rows: int) -> dict[str, np.ndarray]:
        """The first rows of every tensor, by name, from the content of `part(rows)`, whose memory they share."""
        return {name: self._view(content, name, rows) for name in self._starts}

    def _view(self, content: np.ndarray, name: str, rows: int) -> np.ndarray:
        tensor, start = self.tensors[name], self._starts[name]
        shape = (rows, *tensor.shape[1:])
        return content[start : start + math.prod(shape) * tensor.dtype.itemsize].view(tensor.dtype).reshape(shape)
