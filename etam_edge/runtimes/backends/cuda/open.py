"""Which package stands behind the seam."""

from __future__ import annotations

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.backends.cuda.bindings_driver import BindingsDriver
from etam_edge.runtimes.backends.cuda.driver import INSTALL, Cuda, PackageMissingError
from etam_edge.runtimes.backends.cuda.pycuda_driver import PyCudaDriver

PACKAGES = ("pycuda", "cuda-bindings")


def open_cuda(index: int = 0, packages: tuple[str, ...] = PACKAGES) -> Cuda:
    """A GPU in its primary context, through the first of the packages that is installed.

    Args:
        index: of the GPU, counted from 0.
        packages: to try, in this order, of PACKAGES.

    Raises:
        RuntimeUnavailableError: no package is installed, there is no NVIDIA driver, or there is no such GPU.
        CudaError: the GPU is there and does not start.
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
