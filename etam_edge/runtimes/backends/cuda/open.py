"""The choice of the Python package that gives access to CUDA."""

from __future__ import annotations

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.backends.cuda.bindings_driver import BindingsDriver
from etam_edge.runtimes.backends.cuda.driver import INSTALL, Cuda, PackageMissingError
from etam_edge.runtimes.backends.cuda.pycuda_driver import PyCudaDriver

PACKAGES = ("pycuda", "cuda-bindings")


def open_cuda(index: int = 0, packages: tuple[str, ...] = PACKAGES) -> Cuda:
    """Open a GPU in its primary context, with the first package that is installed.

    Args:
        index: of the GPU, counted from 0.
        packages: names of PACKAGES, tried in this order.

    Raises:
        RuntimeUnavailableError: no package is installed, there is no NVIDIA driver, or there is no such GPU.
        CudaError: the GPU exists and cannot be used.
    """
    broken = []
    for package in packages:
        try:
            return PyCudaDriver(index) if package == "pycuda" else BindingsDriver(index)
        except PackageMissingError as error:
            if "not installed" not in str(error):
                broken.append(str(error))
    if broken:
        raise RuntimeUnavailableError(broken[0])
    raise RuntimeUnavailableError(f"neither PyCUDA nor cuda-bindings is installed; {INSTALL}")
