"""The OpenVINO backend: bundles on the CPU, in float32 and in int8.

Graphs are compiled as they are in the bundle; OpenVINO fuses them itself. Its tensors share the memory of the session's
buffers, so that nothing is copied on the way in or out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import BundleError, EtamError
from etam_edge.runtimes.backends.buffers import Buffer, Device, HostDevice, host_view
from etam_edge.runtimes.backends.openvino.core import import_openvino, shared_core
from etam_edge.runtimes.backends.openvino.int8_form import INTEGER, exact_int8_options
from etam_edge.runtimes.backends.threads import Threads, thread_count

DEVICE = "CPU"
logger = logging.getLogger(__name__)
OPTIONS: Mapping[str, Any] = {
    # Without it OpenVINO computes in bfloat16 or float16 on CPUs that have such products.
    "INFERENCE_PRECISION_HINT": "f32",
    "EXECUTION_MODE_HINT": "ACCURACY",
    # One frame at a time, on all threads.
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    # Threads that are tied to cores cannot give way to other work on the machine (docs/performance.md).
    "ENABLE_CPU_PINNING": False,
}


class OpenVinoBackend:
    """The four graphs of a bundle in OpenVINO.

    Every graph is compiled for one object and runs once for each: shapes are static, and a graph fills the cores by
    itself.

    Args:
        bundle: checked on load.
        threads: for one graph; "auto" or None lets OpenVINO choose (the physical cores).

    Attributes:
        thread_options: OpenVINO's options for the number of threads.
        threads: what was chosen, in words.
        int8_form: how int8 products are computed, "integers" or "float"; None for bundles without int8.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed or does not import.
        BundleError: a graph cannot be loaded or is not what the manifest says.
        InputError: the number of threads is not possible.
    """

    def __init__(self, bundle: Bundle, threads: Threads = None) -> None:
        count = thread_count(threads)
        self._openvino = import_openvino()
        self.thread_options = {} if count is None else {"INFERENCE_NUM_THREADS": count}
        options = {**OPTIONS, **self.thread_options}
        self.int8_form: str | None = None
        if bundle.manifest.recipe.int8_regions:
            form = exact_int8_options(self._openvino, OPTIONS)
            if form != INTEGER:
                logger.warning(
                    "OpenVINO's int8 products saturate on this CPU: %s is computed in float32, exact and slower "
                    "than ONNX Runtime",
                    bundle.path,
                )
            self.int8_form = "integers" if form == INTEGER else "float"
            options |= form
        core = shared_core()
        self._requests = {name: _load(core, bundle, name, options) for name in GRAPH_NAMES}
        self.name = f"openvino ({DEVICE.lower()})"
        self.device: Device = HostDevice()
        used = next(iter(self._requests.values())).get_compiled_model().get_property("INFERENCE_NUM_THREADS")
        self.threads = f"{used}{'' if count is not None else ' (auto)'}, not tied to cores"

    max_objects: int | None = None

    def check_objects(self, count: int) -> None:
        """OpenVINO takes any number."""

    def close(self) -> None:
        self._requests = {}

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        # A graph writes every output for every object; inputs that all objects share have one row.
        count = next(iter(outputs.values())).shape[0]
        request = self._requests.get(graph)
        if request is None:
            raise EtamError(f"graph '{graph}' has been closed; load the bundle again with Tracker.load")
        for row in range(count):
            for name, buffer in (*inputs.items(), *outputs.items()):
                own = buffer.rows(row, row + 1) if buffer.shape[0] == count else buffer
                request.set_tensor(name, self._openvino.Tensor(host_view(own), shared_memory=True))
            try:
                request.infer(share_inputs=True, share_outputs=True)
            except Exception as error:
                raise EtamError(f"OpenVINO failed in graph '{graph}': {_first_line(error)}") from error


def _load(core: Any, bundle: Bundle, name: str, options: Mapping[str, Any]) -> Any:
    """An inference request of one graph, compiled for one object.

    Raises:
        BundleError: the file is no graph, or not the one that the manifest describes.
    """
    path = bundle.graph_path(name)
    signature = bundle.manifest.graphs[name].signature
    try:
        model = core.read_model(str(path))
        for ports, tensors in ((model.inputs, signature.inputs), (model.outputs, signature.outputs)):
            found = [(port.any_name, _shape(port)) for port in ports]
            wanted = [(tensor.name, tuple(_size(size) for size in tensor.shape)) for tensor in tensors]
            if found != wanted:
                raise BundleError(f"{path} has {found}, its manifest says {wanted}; export the bundle again")
        model.reshape({tensor.name: list(tensor.sized(1)) for tensor in signature.inputs})
        return core.compile_model(model, DEVICE, dict(options)).create_infer_request()
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"OpenVINO cannot load {path}: {_first_line(error)}; export the bundle again") from error


def _shape(port: Any) -> tuple[int | None, ...]:
    """Sizes of a port, None for the axis of objects."""
    return tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)


def _size(size: int | str) -> int | None:
    return size if isinstance(size, int) else None


def _first_line(error: Exception) -> str:
    """The sentence of OpenVINO's message that says what is wrong; the lines before it name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check '")) and ".cpp:" not in line]
    return (reasons or lines or [type(error).__name__])[0]
