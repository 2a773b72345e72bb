"""`cuda.bindings.driver` on the simulated GPU of this process."""

from __future__ import annotations

from etam_edge_testing.fake_cuda_packages import fake_bindings
from etam_edge_testing.simulated_process import CUDA

globals().update(vars(fake_bindings(CUDA)))
