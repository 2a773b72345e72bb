"""The `Cuda` protocol: the operations that backends and exporters need, and the errors that its drivers share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from etam_edge.errors import CudaError, RuntimeUnavailableError

INSTALL = "install one with: pip install cuda-bindings, or pip install pycuda (compiled on the machine with nvcc)"


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: for example "Orin" or "NVIDIA A100-SXM4-40GB".
        compute_capability: (major, minor).
        memory: total bytes.
        integrated: whether the GPU shares the CPU's memory, as on a Jetson.
        multiprocessors: their number.
        board: model of the board of an integrated GPU, as the device tree names it; "" where it does not.
    """

    name: str
    compute_capability: tuple[int, int]
    memory: int
    integrated: bool
    multiprocessors: int = 0
    board: str = ""


def board_model(root: Path = Path("/")) -> str:
    """The board's model in the device tree, for example "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"."""
    try:
        return (root / "proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


@dataclass(frozen=True, eq=False)
class HostMemory:
    """Page-locked host memory.

    Attributes:
        address: address on the host.
        device_address: address on the device, or 0 if the memory is not mapped.
        nbytes: size in bytes.
        owner: an object that keeps the memory alive.
    """

    address: int
    device_address: int
    nbytes: int
    owner: object = None


class Cuda(Protocol):
    """One GPU in its primary context, the context that TensorRT and torch use as well.

    Addresses and handles are plain integers. Methods can be called from any thread; each makes the context current for
    the duration of the call. A method raises `CudaError` if CUDA reports an error, which may be one of earlier work on
    the same stream.
    """

    name: str
    """Name of the Python package."""
    gpu: Gpu
    can_capture: bool
    """Whether the package supports CUDA graphs."""

    def current(self) -> AbstractContextManager[None]:
        """Make the context current in the calling thread, for libraries that expect one, such as TensorRT."""

    def allocate(self, nbytes: int) -> int:
        """Allocate zeroed device memory and return its address, a multiple of 256. Valid until freed.

        Raises:
            CudaError: not enough memory; the message names the requested and the free size.
        """

    def free(self, address: int) -> None:
        """Free device memory. The call waits until the device has finished all work."""

    def allocate_host(self, nbytes: int, mapped: bool) -> HostMemory:
        """Allocate zeroed page-locked host memory; with `mapped`, also mapped into the device's address space.

        Raises:
            CudaError: not enough memory.
        """

    def free_host(self, memory: HostMemory) -> None:
        """Free page-locked host memory."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU's memory, which other programs use as well; on a Jetson, the CPU too.

        Raises:
            CudaError: CUDA does not tell.
        """

    def create_stream(self) -> int:
        """Create a stream that does not synchronise with the default stream, and return its handle."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def synchronize(self, stream: int) -> None:
        """Wait until all work of a stream is done."""

    def to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy from page-locked host memory. The source must not change before the copy is done."""

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy to page-locked host memory. The data is valid after `synchronize`."""

    def on_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Enqueue a copy within the device."""

    def begin_capture(self, stream: int) -> None:
        """Start capturing: until `end_capture`, work on the stream is recorded instead of run."""

    def end_capture(self, stream: int) -> int:
        """End capturing and return the handle of an executable graph, or 0 if capturing failed."""

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue an executable graph."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy an executable graph."""


class PackageMissingError(RuntimeUnavailableError):
    """The Python package of a driver is not installed; another package may be."""


class PackageBrokenError(RuntimeUnavailableError):
    """The Python package of a driver is installed and cannot be imported; another package may work."""


def no_driver(reason: object) -> RuntimeUnavailableError:
    """The error for a missing or broken NVIDIA driver."""
    first_sentence = str(reason).split(". ")[0]
    return RuntimeUnavailableError(
        f"there is no NVIDIA driver that works on this machine ({first_sentence}); install it, or use "
        "runtime='onnxruntime'"
    )


def refused(what: str, reason: object) -> CudaError:
    """The error for a failed call of the driver. `what` completes "CUDA refused to"."""
    return CudaError(
        f"CUDA refused to {what}: {reason}; start the program again, and if it fails again, read the driver's log "
        "(dmesg)"
    )


def no_room(nbytes: int, where: str, free: int | None, total: int) -> CudaError:
    """The error for a failed allocation.

    Args:
        nbytes: requested size.
        where: "the GPU" or "page-locked host memory".
        free: free bytes of the GPU, or None if unknown.
        total: total bytes of the GPU.
    """
    left = "" if free is None else f", {_mb(free)} of the GPU's {_mb(total)} are free"
    return CudaError(
        f"there is no room for {_mb(nbytes)} in {where}{left}; close other programs, hold fewer objects (max_objects), "
        "or take a smaller model"
    )


def check_index(index: int, count: int) -> None:
    """Refuse the index of a GPU that does not exist.

    Raises:
        RuntimeUnavailableError: there is no GPU, or none with this index.
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
