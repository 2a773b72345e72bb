"""The simulated GPU and TensorRT of a whole process, as `simulated_packages` describes them."""

from __future__ import annotations

import os
import time
from typing import Any

from etam_edge_testing.simulated import A100, ORIN, VERSION, SimulatedCuda, simulated_tensorrt

FAULTS = frozenset(filter(None, os.environ.get("SIMULATED_FAULTS", "").split(",")))
CUDA = SimulatedCuda(ORIN if os.environ.get("SIMULATED_GPU", "a100") == "orin" else A100)


def make_tensorrt() -> Any:
    """The module `tensorrt`, with the faults of this process."""
    from etam_edge_testing.simulated_builder import add_builder

    module: Any = simulated_tensorrt(CUDA, os.environ.get("SIMULATED_TENSORRT", VERSION))
    add_builder(module, CUDA, missing_libraries="no-libraries" in FAULTS)
    module.Builder = type("Builder", (module.Builder,), {"build_serialized_network": _build(module.Builder)})
    return module


def _build(kind: Any) -> Any:
    def build_serialized_network(self: Any, network: Any, config: Any) -> bytes | None:
        if f"crash-{network.name}" in FAULTS:
            os.abort()
        if f"hang-{network.name}" in FAULTS:
            time.sleep(600)
        if f"wrong-{network.name}" in FAULTS:
            _disturb(network.model)
        plan: bytes | None = kind.build_serialized_network(self, network, config)
        return plan

    return build_serialized_network


def _disturb(model: Any) -> None:
    """Scale the largest weight of a graph, as a kernel that computes something else would."""
    import numpy as np
    from onnx import numpy_helper

    floats = [one for one in model.graph.initializer if numpy_helper.to_array(one).dtype.kind == "f"]
    largest = max(floats, key=lambda one: numpy_helper.to_array(one).size)
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array((values * 1.5).astype(values.dtype), largest.name))
    assert np.any(values)
