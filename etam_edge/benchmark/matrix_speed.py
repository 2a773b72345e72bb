"""The CPU's own matrix speed in a runtime: the limit of what a frame can reach."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import numpy as np

from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend, import_onnxruntime
from etam_edge.runtimes.backends.openvino.backend import DEVICE, OPTIONS, OpenVinoBackend
from etam_edge.runtimes.backends.openvino.core import import_openvino, shared_core

SIDE = 2048
"""Of the square matrices: large enough that packing them and starting threads costs nothing beside the product."""
REPEATS = 5
_PRODUCT_GRAPH = (
    "CAgSCWV0YW0tZWRnZTphChEKAWEKAWISAXkiBk1hdE11bBIHcHJvZHVjdFoVCgFhEhAKDggBEgoKAxIBbQoDEgFrWhUKAWISEAoO"
    "CAESCgoDEgFrCgMSAW5iFQoBeRIQCg4IARIKCgMSAW0KAxIBbkIECgAQEQ=="
)
"""An ONNX model of one MatMul of two float32 matrices of any size."""


def matrix_speed(backend: Backend, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """GFLOPS of a 2048 x 2048 float32 product in the backend's runtime and with its threads, the best of five.

    None where the backend does not compute on the CPU.

    Raises:
        EtamError: the runtime cannot be imported.
    """
    product = _product(backend)
    if product is None:
        return None
    product()
    times = []
    for _ in range(REPEATS):
        begin = clock()
        product()
        times.append(clock() - begin)
    return 2 * SIDE**3 / max(min(times), 1e-9) / 1e9


def _product(backend: Backend) -> Callable[[], object] | None:
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    graph = base64.b64decode(_PRODUCT_GRAPH)
    if isinstance(backend, OnnxRuntimeBackend) and backend.provider == "cpu":
        ort = import_onnxruntime()
        options = backend.options.session_options(ort)
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"a": left, "b": right})
    if isinstance(backend, OpenVinoBackend):
        openvino = import_openvino()
        core = shared_core()
        model = core.read_model(graph)
        model.reshape({"a": [SIDE, SIDE], "b": [SIDE, SIDE]})
        request = core.compile_model(model, DEVICE, {**OPTIONS, **backend.thread_options}).create_infer_request()
        for name, array in (("a", left), ("b", right)):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return lambda: request.infer(share_inputs=True, share_outputs=True)
    return None
