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
from etam_edge.runtimes.backends.cuda.driver import Gpu

MODULES = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
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
    name = "any" if flavour == TENSORRT_RTX else gpu.name
    return EnginePlatform(flavour, str(trt.__version__), name, gpu.compute_capability)


def _broken(flavour: str, error: Exception) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"the Python package {MODULES[flavour]} is installed but cannot be imported ({error}); {INSTALL[flavour]}"
    )
