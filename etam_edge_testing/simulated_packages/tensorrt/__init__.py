"""`tensorrt` on the simulated GPU of this process."""

from __future__ import annotations

from etam_edge_testing.simulated_process import make_tensorrt

_module = make_tensorrt()
globals().update({name: value for name, value in vars(_module).items() if not name.startswith("__")})
__version__ = _module.__version__
