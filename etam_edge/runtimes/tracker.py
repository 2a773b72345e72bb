"""Tracker: a bundle with a runtime, from which sessions start."""

from __future__ import annotations

import os

from etam_edge.bundle import Bundle
from etam_edge.bundle.engines import FLAVOURS
from etam_edge.errors import InputError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.runtimes.backends.openvino.backend import OpenVinoBackend
from etam_edge.runtimes.backends.tensorrt.backend import best_tensorrt, load_tensorrt
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.session import DEFAULT_MAX_OBJECTS, Session
from etam_edge.spec import ModelSpec

OPENVINO = "openvino"
RUNTIMES = ("auto", "onnxruntime", OPENVINO, *FLAVOURS)


class Tracker:
    """A loaded bundle. It holds no memory of any stream: sessions do, and one tracker serves many, one at a time.

    Args:
        bundle: on disk.
        backend: that runs its graphs. `load` chooses one.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        provider: str = "auto",
        threads: Threads = AUTO,
    ) -> Tracker:
        """Load a bundle that `etam-edge export` wrote.

        Args:
            path: of the bundle's directory.
            runtime: "tensorrt" or "tensorrt-rtx" for engines that `etam-edge build` made, "onnxruntime", "openvino" (on
                the CPU), or "auto": engines that fit this machine where the bundle has them, else ONNX Runtime. What is
                asked for by name is taken or refused, never replaced.
            provider: ONNX Runtime's: "cpu", "cuda", or "auto" for CUDA where it is installed and starts. With "cpu" or
                "cuda", "auto" as runtime means ONNX Runtime.
            threads: CPU threads for one graph in ONNX Runtime or OpenVINO; "auto" (or None) uses one for each physical
                core. How they were chosen: docs/performance.md.

        Raises:
            BundleError: the bundle is missing, damaged or of another schema, or its engines are not for this machine.
            RuntimeUnavailableError: the runtime or provider asked for is not installed, or has no GPU here.
            CudaError: the engines cannot be loaded.
            InputError: an option is not known.
        """
        if runtime not in RUNTIMES:
            raise InputError(f"runtime '{runtime}' is not known; use {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}")
        if runtime in (OPENVINO, *FLAVOURS) and provider != "auto":
            raise InputError(f"provider '{provider}' is ONNX Runtime's, and the runtime is {runtime}; leave it out")
        bundle = Bundle.load(path)
        backend: Backend | None = None
        if runtime in FLAVOURS:
            backend = load_tensorrt(bundle, runtime)
        elif runtime == OPENVINO:
            backend = OpenVinoBackend(bundle, threads)
        elif runtime == "auto" and provider == "auto":
            backend = best_tensorrt(bundle)
        return cls(bundle, backend or OnnxRuntimeBackend(bundle, provider, OnnxRuntimeOptions(threads)))

    @property
    def spec(self) -> ModelSpec:
        """Every size of the bundle's model."""
        return self.bundle.manifest.model

    @property
    def runtime(self) -> str:
        """The runtime that was chosen, and where it runs: "onnxruntime (cpu)" or "tensorrt 10.3.0 (Orin)", say."""
        return self.backend.name

    def start_session(
        self,
        corrections_condition: bool = False,
        *,
        max_objects: int = DEFAULT_MAX_OBJECTS,
        fill_hole_area: int = 0,
        resize: str = EXACT,
    ) -> Session:
        """Start a stream of frames.

        Args:
            corrections_condition: whether a frame corrected with `refine` becomes a conditioning frame, as in
                SAM 2.1.
            max_objects: objects that the session can hold at a time; its memory is allocated now.
            fill_hole_area: holes of prompted masks up to this many pixels (at S/4 resolution) are filled before they
                are remembered; needs OpenCV. The reference fills 8 where its CUDA extension was built, else none.
            resize: how frames and masks are resized on the host. "exact" as the reference does; "fast" with OpenCV,
                which moves masks a little. A bundle with a frame size resizes in its graphs, exactly.

        Raises:
            InputError: an option is out of range, or "fast" was asked for where nothing is resized on the host.
            RuntimeUnavailableError: "fast" needs OpenCV, which is not installed.
        """
        return Session(self.backend, self.bundle, corrections_condition, max_objects, fill_hole_area, resize)

    def resume_session(self, path: str | os.PathLike[str]) -> Session:
        """The session that `Session.save` wrote, to be continued bit for bit.

        Raises:
            InputError: the file is missing, damaged, or was saved with another bundle.
        """
        return Session.resume(self.backend, self.bundle, path)
