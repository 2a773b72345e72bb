"""How a graph is loaded into ONNX Runtime: as a bundle's backend does it, or with something left out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from etam_edge import Tracker
from etam_edge.runtimes.backends.onnxruntime import cpu_rewrites

SPINNING_STOP = "session.force_spinning_stop"


def session_options(threads: int | None, spinning: bool) -> Any:
    """Options for a graph that is no bundle's, the same as a bundle's backend sets.

    Args:
        threads: for one graph; None lets ONNX Runtime choose.
        spinning: leave idle workers spinning, as ONNX Runtime does by itself.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not spinning:
        options.add_session_config_entry(SPINNING_STOP, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def load_bundle(path: Path, threads: int | None) -> Tracker:
    """A bundle in ONNX Runtime on the CPU, as a user loads it.

    Args:
        path: of the bundle.
        threads: for one graph; None lets ONNX Runtime choose.

    Raises:
        EtamError: the bundle or ONNX Runtime cannot be used.
    """
    return Tracker.load(path, "onnxruntime", provider="cpu", threads=threads)


def load_spinning(path: Path, threads: int | None) -> Tracker:
    """The same, but idle workers spin, as they do in ONNX Runtime by default.

    Raises:
        EtamError: the bundle or ONNX Runtime cannot be used.
    """
    import onnxruntime

    class Spinning(onnxruntime.SessionOptions):  # type: ignore[misc]
        """Everything that the backend sets but the one entry."""

        def add_session_config_entry(self, key: str, value: str) -> None:
            if key != SPINNING_STOP:
                super().add_session_config_entry(key, value)

    with mock.patch.object(onnxruntime, "SessionOptions", Spinning):
        return load_bundle(path, threads)


def load_without(*rewrites: str) -> Callable[[Path, int | None], Tracker]:
    """The same as `load_bundle`, but graphs are not rewritten so.

    Args:
        rewrites: names of functions of `etam_edge.runtimes.backends.onnxruntime.cpu_rewrites`.
    """

    def load(path: Path, threads: int | None) -> Tracker:
        with ExitStack() as stack:
            for name in rewrites:
                stack.enter_context(mock.patch.object(cpu_rewrites, name, return_value=0))
            return load_bundle(path, threads)

    return load
