"""The Python module of TensorRT, and the platform of engines that it can run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from etam_edge.bundle.engines import TENSORRT, TENSORRT_RTX, EnginePlatform
from etam_edge.bundle.targets import OLDEST_TENSORRT, version_numbers
from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.backends.buffers import Buffer
from etam_edge.runtimes.backends.cuda.driver import Gpu

MODULES = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
MEMORY_STEP_GIB = 4
"""Step that a GPU's memory is rounded to: the system reserves a part of it, more or less by version."""
INSTALL = {
    TENSORRT: "on a Jetson it comes with JetPack, elsewhere install it with: pip install tensorrt",
    TENSORRT_RTX: 'install it with: pip install "etam-edge[rtx]"',
}


def import_tensorrt(flavour: str = TENSORRT) -> ModuleType:
    """Import TensorRT or TensorRT for RTX.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Raises:
        RuntimeUnavailableError: it is not installed, cannot be imported, or is too old.
    """
    name = MODULES[flavour]
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _broken(flavour, error) from error
        raise RuntimeUnavailableError(f"the Python package {name} is not installed; {INSTALL[flavour]}") from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise _broken(flavour, error) from error
    if flavour == TENSORRT and version_numbers(version) < OLDEST_TENSORRT:
        raise RuntimeUnavailableError(
            f"TensorRT {version} is too old (JetPack 5 has 8.5): install JetPack 6 or newer, or TensorRT 8.6 or newer"
        )
    return module


def create_runtime(trt: Any, log: Any) -> Any:
    """Create a `trt.Runtime`.

    Raises:
        RuntimeUnavailableError: TensorRT does not start with this NVIDIA driver.
    """
    with _driver_is_checked(trt):
        return trt.Runtime(log)


def create_builder(trt: Any, log: Any) -> Any:
    """Create a `trt.Builder`.

    Raises:
        RuntimeUnavailableError: TensorRT does not start with this NVIDIA driver.
    """
    with _driver_is_checked(trt):
        return trt.Builder(log)


def device_memory_of(engine: Any) -> int:
    """Bytes of working memory that an execution context of an engine needs, for its largest shapes."""
    newer = hasattr(engine, "device_memory_size_v2")
    return int(engine.device_memory_size_v2 if newer else engine.device_memory_size)


def create_context(trt: Any, engine: Any, scratch: Buffer) -> Any | None:
    """Create an execution context that works in the given memory, or None if TensorRT refuses.

    Args:
        scratch: uint8, at least `device_memory_of(engine)` bytes. Contexts that share it must not run at the same time.
    """
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is not None:
            context.set_device_memory(scratch.address, scratch.nbytes)
        return context
    context = engine.create_execution_context_without_device_memory()
    if context is not None:
        context.device_memory = scratch.address
    return context


@contextmanager
def _driver_is_checked(trt: Any) -> Iterator[None]:
    """Translate the error of TensorRT's bindings when the library refuses to start.

    The library returns a null pointer when the driver is missing or too old for it, and the bindings of 10.3 and 11.4
    raise `TypeError: pybind11::init(): factory function returned nullptr`.
    """
    try:
        yield
    except TypeError as error:
        if "nullptr" not in str(error):
            raise
        raise RuntimeUnavailableError(
            f"the NVIDIA driver is too old for TensorRT {trt.__version__}, or does not run; update the driver, install "
            "a TensorRT that supports it, or use runtime='onnxruntime'"
        ) from error


def platform_here(flavour: str, trt: Any, gpu: Gpu) -> EnginePlatform:
    """The platform of engines that run with this module on this GPU."""
    version = str(trt.__version__)
    if flavour == TENSORRT_RTX:
        return EnginePlatform(flavour, version, "any", gpu.compute_capability)
    memory_gib = MEMORY_STEP_GIB * max(1, round(gpu.memory / (MEMORY_STEP_GIB << 30)))
    return EnginePlatform(
        flavour, version, gpu.name, gpu.compute_capability, gpu.multiprocessors, memory_gib, gpu.board
    )


def _broken(flavour: str, error: Exception) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"the Python package {MODULES[flavour]} is installed but cannot be imported ({error}); {INSTALL[flavour]}"
    )
