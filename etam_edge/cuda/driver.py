"""The seam: what runtimes and exporters ask of CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: for example "Orin" or "NVIDIA A100-SXM4-40GB".
        compute_capability: (major, minor).
        memory: bytes in all.
        integrated: whether it shares the CPU's memory, as on a Jetson.
    """

    name: str
    compute_capability: tuple[int, int]
    memory: int
    integrated: bool


class HostMemory(Protocol):
    """Page-locked host memory, and its address on the device where it is mapped.

    Attributes:
        address: on the host.
        device_address: on the device, or 0 where it is not mapped.
        nbytes: its size.
    """

    address: int
    device_address: int
    nbytes: int


class Cuda(Protocol):
    """One GPU in its primary context. Addresses and handles are plain integers.

    Calls raise `CudaError` of this package where CUDA refuses; a call that allocates says what it wanted.
    """

    name: str
    """Of the package behind it."""
    gpu: Gpu

    def allocate(self, nbytes: int) -> int:
        """Device memory, zeroed; its address. Freed with the process or by `free`."""

    def free(self, address: int) -> None: ...

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        """Page-locked host memory; `mapped` into the device's address space on integrated GPUs."""

    def create_stream(self) -> int:
        """Handle of a stream that does not wait for the default one."""

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream."""

    def create_event(self) -> int: ...

    def record(self, event: int, stream: int) -> None: ...

    def wait(self, stream: int, event: int) -> None:
        """What comes on `stream` from now on waits for `event`."""

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from host memory, in order of the stream."""

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy to host memory, in order of the stream."""

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy within the device, in order of the stream."""

    def begin_capture(self, stream: int) -> None:
        """Record what comes on the stream into a graph. `can_capture` says whether that can be done."""

    def end_capture(self, stream: int) -> int:
        """Handle of the executable graph that was recorded, or 0 where the recording failed."""

    def launch(self, graph: int, stream: int) -> None: ...

    @property
    def can_capture(self) -> bool: ...
