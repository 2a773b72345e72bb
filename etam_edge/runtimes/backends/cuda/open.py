"""The choice of the Python package that gives access to CUDA."""

from __future__ import annotations

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.backends.cuda.bindings_driver import BindingsDriver
from etam_edge.runtimes.backends.cuda.driver import INSTALL, Cuda, PackageBrokenError, PackageMissingError
from etam_edge.runtimes.backends.cuda.pycuda_driver import PyCudaDriver

PACKAGES = ("cuda-bindings", "pycuda")
"""In order of preference: only cuda-bindings has CUDA graphs, which save the launch of some hundred kernels a frame."""


def open_cuda(index: int = 0, packages: tuple[str, ...] = PACKAGES) -> Cuda:
    """Open a GPU in its primary context, with the first package that is installed.

    Args:
        index: of the GPU, counted from 0.
        packages: names of PACKAGES, tried in this order.

    Raises:
        RuntimeUnavailableError: no package is installed, there is no NVIDIA driver, or there is no such GPU.
        CudaError: the GPU exists and cannot be used.
    """
    broken: list[PackageBrokenError] = []
    for package in packages:
        try:
            return PyCudaDriver(index) if package == "pycuda" else BindingsDriver(index)
        except PackageMissingError:
            continue
        except PackageBrokenError as error:
            broken.append(error)
    if broken:
        raise broken[0]
    raise RuntimeUnavailableError(f"neither cuda-bindings nor PyCUDA is installed; {INSTALL}")
