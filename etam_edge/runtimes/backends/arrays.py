"""One call of a graph on NumPy arrays, for verification and tests. Sessions allocate buffers once and keep them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from etam_edge.bundle import OBJECTS, GraphSignature
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer


def run_on_arrays(
    backend: Backend, graph: str, signature: GraphSignature, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run a graph on arrays and return its outputs by name.

    Args:
        backend: the graphs of a bundle.
        graph: name of the graph.
        signature: of the graph.
        inputs: every input of the signature by name; converted to the signature's types.

    Raises:
        EtamError: the graph failed.
    """
    device = backend.device
    buffers: dict[str, Buffer] = {}
    objects = 1
    for tensor in signature.inputs:
        array = np.ascontiguousarray(inputs[tensor.name], dtype=tensor.dtype)
        if tensor.shape[0] == OBJECTS:
            objects = len(array)
        buffers[tensor.name] = device.empty(array.shape, tensor.dtype)
        device.upload(array, buffers[tensor.name])
    outputs = {tensor.name: device.empty(tensor.sized(objects), tensor.dtype) for tensor in signature.outputs}
    backend.run(graph, buffers, outputs)
    return {name: device.download(buffer) for name, buffer in outputs.items()}
