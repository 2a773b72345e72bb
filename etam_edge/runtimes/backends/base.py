"""The interface between a session and the runtime that executes its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from etam_edge.runtimes.backends.buffers import Buffer, Device


class Backend(Protocol):
    """The four graphs of a bundle, loaded and ready to run.

    Attributes:
        name: of the runtime and where it runs, for example "onnxruntime (cpu)".
        device: that holds the graphs' inputs and outputs.
        max_objects: largest number of objects that one call can process, or None where any number can.
    """

    name: str
    device: Device
    max_objects: int | None

    def check_objects(self, count: int) -> None:
        """Refuse more objects than one call can process.

        Raises:
            InputError: there are too many; the message says what to do.
        """

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run one graph on all its inputs and write all its outputs. It may return before the device has finished.

        Args:
            graph: name, of `etam_edge.bundle.GRAPH_NAMES`.
            inputs, outputs: by name, of the shapes and types in the graph's signature.

        Raises:
            EtamError: the graph failed; the content of the outputs is undefined.
        """

    def close(self) -> None:
        """Free the graphs. Sessions of this backend can no longer run; calling it again does nothing."""
