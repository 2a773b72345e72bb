"""The CPU's own matrix speed in a runtime, and how much a frame multiplies."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from etam_edge.bundle import OBJECTS, Bundle
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend, import_onnxruntime
from etam_edge.runtimes.backends.openvino.backend import DEVICE, OPTIONS, OpenVinoBackend, import_openvino

if TYPE_CHECKING:
    import onnx

FRAME_GRAPHS = ("encode", "track")
"""What a tracked frame runs: the first once, the second for every object."""
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
        core = openvino.Core()
        model = core.read_model(graph)
        model.reshape({"a": [SIDE, SIDE], "b": [SIDE, SIDE]})
        request = core.compile_model(model, DEVICE, {**OPTIONS, **backend.thread_options}).create_infer_request()
        for name, array in (("a", left), ("b", right)):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return lambda: request.infer(share_inputs=True, share_outputs=True)
    return None


def frame_operations(bundle: Bundle) -> dict[str, int] | None:
    """Floating-point operations of the products of each graph of a tracked frame, for one object.

    All memory slots count. None where the onnx package, which infers the shapes, is not installed.
    """
    try:
        import onnx
    except ImportError:
        return None
    return {name: sum(operations(onnx.load(bundle.graph_path(name))).values()) for name in FRAME_GRAPHS}


def operations(model: onnx.ModelProto) -> dict[str, int]:
    """Floating-point operations, two for a multiply-add, by the name of every node that multiplies.

    Products alone are counted: MatMul, Gemm, Conv and ConvTranspose. The model is changed: its objects become one.
    """
    import onnx

    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == OBJECTS:
                size.dim_value = 1
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    found = {node.name: _of_node(node, shapes) for node in inferred.graph.node}
    return {name: count for name, count in found.items() if count}


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type == "MatMul":
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "Conv":
        return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    return 0
