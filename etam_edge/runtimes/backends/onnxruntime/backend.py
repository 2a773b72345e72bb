"""The ONNX Runtime backend: CPU, or CUDA where its provider is installed.

Inputs and outputs are bound by address, so that graphs read the memory bank where it lies and nothing is copied on the
way; on CUDA everything but frames, masks, scores and pointers stays on the device.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import BundleError, EtamError, InputError, RuntimeUnavailableError
from etam_edge.runtimes.backends.buffers import Buffer, Device, HostDevice, check_copy, check_upload
from etam_edge.runtimes.backends.onnxruntime.int8_forms import DEFAULT_FORM, FLOAT, FORMS, Int8Form, form_of_this_cpu
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions

logger = logging.getLogger(__name__)
INSTALL = 'install it with: pip install "etam-edge[onnxruntime]"'
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ONE_BY_ONE_TOKENS = 1024
"""Tokens of a frame from which on a CPU takes objects one after the other. Large products fill all cores by themselves;
a batch of them is dealt out object by object, and three objects keep one of two cores waiting (docs/performance.md)."""
KEPT_STAGING = 16 << 20
"""Bytes up to which memory for transfers is kept: those of every frame are smaller, and a saved session is not."""
_ORT_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
}
_COPY_GRAPH = (
    "CAgSCWV0YW0tZWRnZTo8ChAKAXgSAXkiCElkZW50aXR5EgRjb3B5WhAKAXgSCwoJCAISBQoDEgFuYhAKAXkSCwoJCAISBQoDEgFuQgQKABAR"
)
"""An ONNX model of one Identity node over uint8 (n,): a copy within a device, for which ONNX Runtime has no call."""


class OnnxRuntimeBackend:
    """The four graphs of a bundle in ONNX Runtime.

    Args:
        bundle: checked on load.
        provider: "cpu", "cuda", or "auto" for CUDA where its provider is installed and starts, else the CPU.
        options: threads, spinning, rewrites and the form of int8 products; the defaults need no tuning.
        device: index of the GPU, counted from 0; with "auto", the CPU is not used then.

    Attributes:
        options: that the graphs were loaded with.
        threads: what was chosen, in words.
        int8_form: name of the form in which int8 products are computed (`int8_forms.FORMS`); None where the bundle has
            no int8 regions or does not run on a CPU.

    Raises:
        RuntimeUnavailableError: ONNX Runtime or the provider asked for is not installed or cannot start.
        BundleError: a graph cannot be loaded or is not what the manifest says.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = "auto",
        options: OnnxRuntimeOptions | None = None,
        device: int | None = None,
    ) -> None:
        options = options or OnnxRuntimeOptions()
        ort = import_onnxruntime()
        candidates = _candidates(ort, provider, device)
        self._index = device or 0
        int8 = bool(bundle.manifest.recipe.int8_regions)
        for self.provider in candidates:
            form = _int8_form(options) if int8 and self.provider == "cpu" else None
            try:
                self._sessions = {
                    name: _load(ort, bundle, name, options, self.provider, self._index, form) for name in GRAPH_NAMES
                }
                break
            except RuntimeUnavailableError:
                if self.provider == candidates[-1]:
                    raise
        self.name = f"onnxruntime ({self.provider})" if device is None else f"onnxruntime ({self.provider}:{device})"
        self.options = options
        self.threads = options.description
        self.int8_form = None if form is None else form.name
        if form not in (None, DEFAULT_FORM):
            logger.info("%s: int8 products are computed as %s on this CPU", bundle.path, self.int8_form)
        self._one_by_one = self.provider == "cpu" and bundle.manifest.model.tokens >= ONE_BY_ONE_TOKENS
        self.device: Device = HostDevice() if self.provider == "cpu" else OrtDevice(self.provider, self._index)

    max_objects: int | None = None

    def check_objects(self, count: int) -> None:
        """ONNX Runtime takes any number."""

    def close(self) -> None:
        self._sessions = {}

    def session(self, graph: str) -> Any:
        """The ONNX Runtime InferenceSession of a graph, for callers that run it on arrays."""
        return self._sessions[graph]

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        # Whatever a graph writes, it writes for every object; what all of them read has one row.
        count = next(iter(outputs.values())).shape[0]
        if not self._one_by_one or count == 1:
            self._run(graph, inputs, outputs)
            return
        for row in range(count):
            mine = [
                {name: buffer.rows(row, row + 1) if buffer.shape[0] == count else buffer for name, buffer in buffers}
                for buffers in (inputs.items(), outputs.items())
            ]
            self._run(graph, *mine)

    def end_profiling(self) -> dict[str, Path]:
        """Stop the profile that the options asked for: the file that ONNX Runtime wrote, by graph.

        Raises:
            InputError: the options asked for no profile.
        """
        if self.options.profile is None:
            raise InputError("nothing was profiled; load the bundle with OnnxRuntimeOptions(profile=PREFIX)")
        return {name: Path(session.end_profiling()) for name, session in self._sessions.items()}

    def _run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        session = self._sessions.get(graph)
        if session is None:
            raise EtamError(f"graph '{graph}' has been closed; load the bundle again with Tracker.load")
        binding = session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_input(name, self.provider, self._index, buffer.dtype.type, buffer.shape, buffer.address)
        for name, buffer in outputs.items():
            binding.bind_output(name, self.provider, self._index, buffer.dtype.type, buffer.shape, buffer.address)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            raise EtamError(f"ONNX Runtime failed in graph '{graph}': {_first_line(error)}") from error


class OrtDevice:
    """Device memory through ONNX Runtime's own allocator, for providers other than the CPU's.

    ONNX Runtime copies between host and device for whole values only, so that parts of a buffer go through memory of
    their size on the device. It is allocated once for each size, and kept.
    """

    def __init__(self, kind: str, index: int = 0) -> None:
        self._ort = import_onnxruntime()
        self.kind = kind
        self.index = index
        self._copy = self._ort.InferenceSession(base64.b64decode(_COPY_GRAPH), providers=[_provider(kind, index)])
        self._staging: dict[int, Buffer] = {}

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        # Defined content: an unused slot is masked, but NaN times zero would still be NaN.
        value = self._ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=dtype), self.kind, self.index)
        return Buffer(value.data_ptr(), tuple(shape), np.dtype(dtype), value)

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self.empty(shape, dtype)

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        check_upload(array, target)
        array = np.ascontiguousarray(array)
        if _is_whole(target):
            target.owner.update_inplace(array)  # type: ignore[attr-defined]
            return
        staged = self._staged(target.nbytes)
        staged.owner.update_inplace(array.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
        self.copy(staged, target)

    def download(self, source: Buffer) -> np.ndarray:
        if _is_whole(source):
            return np.array(source.owner.numpy())  # type: ignore[attr-defined]
        staged = self._staged(source.nbytes)
        self.copy(source, staged)
        content = np.array(staged.owner.numpy())  # type: ignore[attr-defined]
        return content.view(source.dtype).reshape(source.shape)

    def download_all(self, sources: Sequence[Buffer]) -> list[np.ndarray]:
        return [self.download(source) for source in sources]

    def view(self, source: Buffer) -> np.ndarray | None:
        return None

    def copy(self, source: Buffer, target: Buffer) -> None:
        check_copy(source, target)
        binding = self._copy.io_binding()
        binding.bind_input("x", self.kind, self.index, np.uint8, (source.nbytes,), source.address)
        binding.bind_output("y", self.kind, self.index, np.uint8, (target.nbytes,), target.address)
        self._copy.run_with_iobinding(binding)

    def _staged(self, nbytes: int) -> Buffer:
        """Memory of a size, whose content may be overwritten."""
        if nbytes in self._staging:
            return self._staging[nbytes]
        value = self._ort.OrtValue.ortvalue_from_shape_and_type((nbytes,), np.uint8, self.kind, self.index)
        staged = Buffer(value.data_ptr(), (nbytes,), np.dtype(np.uint8), value)
        if nbytes <= KEPT_STAGING:
            self._staging[nbytes] = staged
        return staged


def _is_whole(buffer: Buffer) -> bool:
    """Whether a buffer is all of the OrtValue that it belongs to, in shape and type."""
    value: Any = buffer.owner
    return (
        value.data_ptr() == buffer.address
        and tuple(value.shape()) == buffer.shape
        and value.data_type() == _ORT_TYPES.get(buffer.dtype.name)
    )


def import_onnxruntime() -> Any:
    """
    Raises:
        RuntimeUnavailableError: ONNX Runtime is not installed or does not import.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(f"ONNX Runtime cannot be imported ({error}); {INSTALL}") from error
    return onnxruntime


def _provider(kind: str, index: int) -> str | tuple[str, dict[str, str]]:
    """A provider in the form that `InferenceSession` expects, on the GPU with this index."""
    return PROVIDERS[kind] if kind == "cpu" else (PROVIDERS[kind], {"device_id": str(index)})


def import_rewriting() -> Any:
    """`rewrite_for_cpu`, imported when a graph is loaded: a device that runs TensorRT alone has no protobuf.

    Raises:
        RuntimeUnavailableError: protobuf, which ONNX Runtime depends on, is not installed or does not import.
    """
    try:
        from etam_edge.runtimes.backends.onnxruntime.cpu_rewrites import rewrite_for_cpu
    except ImportError as error:
        raise RuntimeUnavailableError(f"protobuf cannot be imported ({error}); {INSTALL}") from error
    return rewrite_for_cpu


def _candidates(ort: Any, provider: str, device: int | None) -> list[str]:
    """The providers to try, in this order.

    Raises:
        InputError: the provider is not known, or a GPU was requested from the CPU's.
        RuntimeUnavailableError: the provider is not part of this ONNX Runtime.
    """
    if provider not in (*PROVIDERS, "auto"):
        raise InputError(f"provider '{provider}' is not known; use cpu, cuda or auto")
    available = ort.get_available_providers()
    if device is not None and (provider == "cpu" or (provider == "auto" and PROVIDERS["cuda"] not in available)):
        reason = "the provider is 'cpu'" if provider == "cpu" else "this ONNX Runtime has no CUDA provider"
        raise InputError(
            f"device={device} is the index of a GPU, and {reason}; leave it out to run on the CPU, or install "
            "onnxruntime-gpu and use provider='cuda'"
        )
    if provider == "auto" and device is not None:
        return ["cuda"]
    if provider == "auto":
        return ["cuda", "cpu"] if PROVIDERS["cuda"] in available else ["cpu"]
    if PROVIDERS[provider] not in available:
        raise RuntimeUnavailableError(
            f"this ONNX Runtime has no {PROVIDERS[provider]} (it has {', '.join(available)}); "
            "install onnxruntime-gpu in its place, or use provider='cpu'"
        )
    return [provider]


def _int8_form(options: OnnxRuntimeOptions) -> Int8Form:
    return form_of_this_cpu() if options.int8_form is None else FORMS[options.int8_form]


def _load(
    ort: Any,
    bundle: Bundle,
    name: str,
    options: OnnxRuntimeOptions,
    provider: str,
    device: int,
    form: Int8Form | None,
) -> Any:
    """The session of one graph.

    Raises:
        BundleError: the file is no graph, or not the one that the manifest describes.
        RuntimeUnavailableError: the provider is installed but does not start here.
    """
    path: Path = bundle.graph_path(name)
    rewrite_for_cpu = import_rewriting()
    try:
        manifest = bundle.manifest
        queries = manifest.model.tokens // manifest.sizes.query_blocks if name == "track" else None
        graph: bytes | str = str(path)
        session_options = options.session_options(ort)
        if provider == "cpu":
            graph = rewrite_for_cpu(path.read_bytes(), form or FLOAT, queries, options.skip_rewrites)
        session = ort.InferenceSession(graph, session_options, providers=[_provider(provider, device)])
    except Exception as error:
        raise BundleError(f"ONNX Runtime cannot load {path}: {_first_line(error)}; export the bundle again") from error
    if PROVIDERS[provider] not in session.get_providers():
        raise RuntimeUnavailableError(
            f"{PROVIDERS[provider]} is installed but does not start on this machine; "
            "check the CUDA and cuDNN that this onnxruntime-gpu asks for, or use provider='cpu'"
        )
    signature = bundle.manifest.graphs[name].signature
    for declared, tensors in ((session.get_inputs(), signature.inputs), (session.get_outputs(), signature.outputs)):
        found = [(value.name, tuple(value.shape)) for value in declared]
        wanted = [(tensor.name, tensor.shape) for tensor in tensors]
        if found != wanted:
            raise BundleError(f"{path} has {found}, its manifest says {wanted}; export the bundle again")
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
