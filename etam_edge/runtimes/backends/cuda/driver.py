"""The seam: what runtimes and exporters ask of CUDA."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from etam_edge.errors import CudaError, RuntimeUnavailableError

INSTALL = "install one with: pip install pycuda (compiled there, wants nvcc), or pip install cuda-bindings"


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


@dataclass(frozen=True, eq=False)
class HostMemory:
    """Page-locked host memory.

    Attributes:
        address: on the host.
        device_address: on the device, or 0 where it is not mapped.
        nbytes: its size.
        owner: what keeps it alive.
    """

    address: int
    device_address: int
    nbytes: int
    owner: object = None


class Cuda(Protocol):
    """One GPU in its primary context, which is the one that TensorRT and torch use too.

    Addresses and handles are plain integers. Any thread may call; each call makes the context current for itself.
    Calls raise `CudaError` where CUDA refuses, and that may be about earlier work of the same stream.
    """

    name: str
    """Of the package behind it."""
    gpu: Gpu
    can_capture: bool
    """Whether the package behind it knows CUDA graphs."""

    def current(self) -> AbstractContextManager[None]:
        """Within it the calling thread has the context: for libraries that expect to find one, as TensorRT does."""

    def allocate(self, nbytes: int) -> int:
        """Device memory, zeroed; its address, a multiple of 256. It is there until `free`.

        Raises:
            CudaError: there is no room; how much was wanted and how much is free is said.
        """

    def free(self, address: int) -> None:
        """Give device memory back, once the device has finished all that it was given to do."""

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        """Page-locked host memory, zeroed; `mapped` into the device's address space too.

        Raises:
            CudaError: there is no room.
        """

    def free_host(self, memory: HostMemory) -> None: ...

    def create_stream(self) -> int:
        """Handle of a stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream."""

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from page-locked host memory, in order of the stream; the source has to stay as it is until then."""

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy to page-locked host memory, in order of the stream; it is there after `synchronize`."""

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy within the device, in order of the stream."""

    def begin_capture(self, stream: int) -> None:
        """From here to `end_capture`, what comes on the stream is recorded and not run."""

    def end_capture(self, stream: int) -> int:
        """Handle of the graph that was recorded, ready to launch, or 0 where the recording failed."""

    def launch(self, graph: int, stream: int) -> None:
        """Run a recorded graph, in order of the stream."""

    def destroy_graph(self, graph: int) -> None: ...


class PackageMissingError(RuntimeUnavailableError):
    """The package behind a driver is not installed, or does not import; another may serve."""


def no_driver(reason: object) -> RuntimeUnavailableError:
    said = str(reason).split(". ")[0]
    return RuntimeUnavailableError(
        f"there is no NVIDIA driver that works on this machine ({said}); install it, or use runtime='onnxruntime'"
    )


def refused(what: str, reason: object) -> CudaError:
    return CudaError(
        f"CUDA refused to {what}: {reason}; start the program again, and if it comes back, look at the driver's log "
        "(dmesg)"
    )


def no_room(nbytes: int, where: str, free: int | None, total: int) -> CudaError:
    """
    Args:
        nbytes: wanted.
        where: "the GPU" or "page-locked host memory".
        free: bytes, where they are known.
        total: bytes of the GPU.
    """
    left = "" if free is None else f", {_mb(free)} of the GPU's {_mb(total)} are free"
    return CudaError(
        f"there is no room for {_mb(nbytes)} in {where}{left}; close other programs, hold fewer objects (max_objects), "
        "or take a smaller model"
    )


def check_index(index: int, count: int) -> None:
    """
    Raises:
        RuntimeUnavailableError: there is no GPU of this index.
    """
    if count == 0:
        raise RuntimeUnavailableError(
            "there is a CUDA driver but no GPU that it can use; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
            "runtime='onnxruntime'"
        )
    if not 0 <= index < count:
        raise RuntimeUnavailableError(f"there is no GPU {index}: this machine has {count}, counted from 0")


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
