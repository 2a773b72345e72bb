"""How bundles and other graphs are loaded into ONNX Runtime and OpenVINO: with the defaults, or with one changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from etam_edge import Tracker
from etam_edge.bundle import Bundle
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.runtimes.backends.onnxruntime.options import OnnxRuntimeOptions
from etam_edge.runtimes.backends.threads import Threads

Load = Callable[[Path, Threads], Tracker]
"""Loads a bundle with a number of threads; None and "auto" let the backend choose."""


def session_options(threads: Threads, spinning: str | None = None) -> Any:
    """ONNX Runtime's options for a graph that is not a bundle's.

    Args:
        threads: for one graph.
        spinning: what waiting threads do, one of the backend's `SPIN_POLICIES`; None for what the backend does.
    """
    import onnxruntime

    return _options(threads, spinning).session_options(onnxruntime)


def load_bundle(path: Path, threads: Threads) -> Tracker:
    """A bundle in ONNX Runtime on the CPU, with the default options.

    Raises:
        EtamError: the bundle or ONNX Runtime cannot be used.
    """
    return Tracker.load(path, "onnxruntime", provider="cpu", threads=threads)


def load_openvino(path: Path, threads: Threads) -> Tracker:
    """A bundle in OpenVINO.

    Raises:
        EtamError: the bundle or OpenVINO cannot be used.
    """
    return Tracker.load(path, "openvino", threads=threads)


def load_with(
    spinning: str | None = None,
    skip_rewrites: tuple[str, ...] = (),
    profile: Path | None = None,
    only_threads: int | None = None,
) -> Load:
    """Loads a bundle in ONNX Runtime on the CPU with other options than the default ones.

    Args:
        spinning: what waiting threads do; None for the default.
        skip_rewrites: names of the rewrites of `cpu_rewrites` that are not applied.
        profile: prefix of the files that say how long each operator took.
        only_threads: overrides the number of threads of the run.
    """

    def load(path: Path, threads: Threads) -> Tracker:
        bundle = Bundle.load(path)
        options = _options(only_threads or threads, spinning, skip_rewrites, profile)
        return Tracker(bundle, OnnxRuntimeBackend(bundle, "cpu", options))

    return load


def _options(
    threads: Threads, spinning: str | None, skip_rewrites: tuple[str, ...] = (), profile: Path | None = None
) -> OnnxRuntimeOptions:
    chosen = {} if spinning is None else {"spinning": spinning}
    return OnnxRuntimeOptions(threads, skip_rewrites=skip_rewrites, profile=profile, **chosen)
