"""Tracker: a bundle loaded into a runtime, which starts sessions."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import FLAVOURS
from etam_edge.errors import InputError, shown
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.runtimes.backends.openvino.backend import OpenVinoBackend
from etam_edge.runtimes.backends.tensorrt.backend import best_tensorrt, load_tensorrt
from etam_edge.runtimes.backends.threads import AUTO, Threads, thread_count
from etam_edge.runtimes.observer import SessionObserver
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.session import DEFAULT_MAX_OBJECTS, Session
from etam_edge.spec import ModelSpec

OPENVINO = "openvino"
MAX_DEVICES = 1024
RUNTIMES = ("auto", "onnxruntime", OPENVINO, *FLAVOURS)


class Tracker:
    """A bundle loaded into a runtime. The memory of a stream is in its `Session`; one tracker can start many.

    Sessions of one tracker share its graphs, so only one of them may be used at a time. A tracker can be used in a
    `with` statement, which closes it at the end. Pickling a tracker that `load` returned stores its path and options,
    and unpickling loads the bundle again.

    Args:
        bundle: on disk.
        backend: that runs its graphs; `load` chooses one.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self._loaded_with: dict[str, Any] | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        provider: str = "auto",
        threads: Threads = AUTO,
        device: int | None = None,
    ) -> Tracker:
        """Load a bundle that `etam-edge export` wrote.

        Args:
            path: of the bundle's directory.
            runtime: "tensorrt" or "tensorrt-rtx" for engines that `etam-edge build` wrote, "onnxruntime", "openvino"
                (on the CPU), or "auto": engines where the bundle has some for this machine, else ONNX Runtime. A
                runtime that is named is used or refused, never replaced by another.
            provider: of ONNX Runtime: "cpu", "cuda", or "auto" for CUDA where it is installed and starts. With "cpu" or
                "cuda", "auto" as runtime means ONNX Runtime.
            threads: CPU threads for one graph in ONNX Runtime or OpenVINO; "auto" (or None) uses one for each physical
                core. How they were chosen: docs/performance.md.
            device: index of the GPU for TensorRT or the CUDA provider, counted from 0 as CUDA does; None uses GPU 0
                where there is one. With an index, the CPU is never used.

        Raises:
            BundleError: the bundle is missing, damaged or of another schema, or its engines are not for this machine.
            RuntimeUnavailableError: the runtime or provider requested is not installed, or there is no such GPU.
            CudaError: the engines cannot be loaded.
            InputError: an option is not known, or a GPU was requested from a runtime that uses the CPU.
        """
        options = {"runtime": runtime, "provider": provider, "threads": threads, "device": device}
        if not isinstance(runtime, str) or runtime not in RUNTIMES:
            raise InputError(f"runtime {shown(runtime)} is not known; use {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}")
        if runtime in (OPENVINO, *FLAVOURS) and provider != "auto":
            raise InputError(f"provider '{provider}' is ONNX Runtime's, and the runtime is {runtime}; leave it out")
        if not isinstance(provider, str):
            raise InputError(f"provider {shown(provider)} is not known; use cpu, cuda or auto")
        thread_count(threads)
        number = isinstance(device, int) and not isinstance(device, bool)
        if device is not None and not (number and 0 <= device < MAX_DEVICES):
            raise InputError(f"device={shown(device)} is not the index of a GPU; give a whole number from 0")
        if device is not None and runtime == OPENVINO:
            raise InputError(f"device={device} is the index of a GPU, and OpenVINO runs on the CPU here; leave it out")
        bundle = Bundle.load(path)
        backend: Backend | None = None
        if runtime in FLAVOURS:
            backend = load_tensorrt(bundle, runtime, device or 0)
        elif runtime == OPENVINO:
            backend = OpenVinoBackend(bundle, threads)
        elif runtime == "auto" and provider == "auto":
            backend = best_tensorrt(bundle, device or 0)
        tracker = cls(bundle, backend or OnnxRuntimeBackend(bundle, provider, OnnxRuntimeOptions(threads), device))
        tracker._loaded_with = options
        return tracker

    @property
    def spec(self) -> ModelSpec:
        """Specification of the bundle's model: all its sizes."""
        return self.bundle.manifest.model

    @property
    def runtime(self) -> str:
        """Name of the runtime and where it runs, for example "onnxruntime (cpu)" or "tensorrt 10.3.0 (Orin)"."""
        return self.backend.name

    @property
    def int8_form(self) -> str | None:
        """How int8 products are computed: a name of `int8_forms.FORMS`, for example "uint8 x uint8"; in OpenVINO
        "integers" or "float".

        None where this does not apply: the bundle has no int8 region, or does not run on a CPU.
        """
        return getattr(self.backend, "int8_form", None)

    def start_session(
        self,
        corrections_condition: bool = False,
        *,
        max_objects: int = DEFAULT_MAX_OBJECTS,
        fill_hole_area: int = 0,
        resize: str = EXACT,
        observer: SessionObserver | None = None,
    ) -> Session:
        """Start tracking a new stream of frames.

        Args:
            corrections_condition: whether a frame corrected with `Session.refine` becomes a conditioning frame, as in
                SAM 2.1.
            max_objects: number of objects that the session can hold at a time. Memory for all of them is allocated now.
            fill_hole_area: holes of up to this many pixels (at resolution S/4) in prompted masks are filled before the
                masks are written to memory; needs OpenCV. The reference fills 8 where its CUDA extension was built, and
                none elsewhere.
            resize: how frames and masks are resized on the host: "exact" as the reference does, "fast" with OpenCV,
                which changes masks slightly. A bundle with a frame size resizes in its graphs, exactly.
            observer: receives the beginning and end of each stage of a frame, see `SessionObserver`.

        Raises:
            InputError: an option is out of range, or "fast" was requested for a bundle that resizes in its graphs.
            RuntimeUnavailableError: "fast" needs OpenCV, which is not installed.
        """
        return Session(self.backend, self.bundle, corrections_condition, max_objects, fill_hole_area, resize, observer)

    def resume_session(self, path: str | os.PathLike[str], *, observer: SessionObserver | None = None) -> Session:
        """Continue a session that `Session.save` wrote, with bit-identical results and the options it had.

        Args:
            path: of the file.
            observer: as of `start_session`; it is not saved.

        Raises:
            InputError: the file is missing, damaged, or was saved with another bundle.
        """
        return Session.resume(self.backend, self.bundle, path, observer)

    def close(self) -> None:
        """Free the graphs now rather than with the last reference. Sessions of this tracker can no longer run."""
        self.backend.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """
        Raises:
            InputError: the tracker was not created by `load`.
        """
        if self._loaded_with is None:
            raise InputError(
                "a tracker with a backend of your own cannot be pickled, because it could not be loaded again; use "
                "Tracker.load, or create the tracker in the other process"
            )
        # Absolute, since another process may have another working directory.
        return _load, (type(self), str(Path(self.bundle.path).absolute()), self._loaded_with)

    def __repr__(self) -> str:
        return f"Tracker({str(self.bundle.path)!r}, runtime={self.runtime!r})"


def _load(cls: type[Tracker], path: str, options: dict[str, Any]) -> Tracker:
    return cls.load(path, **options)
