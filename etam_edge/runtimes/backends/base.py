"""What a runtime has to offer to a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from etam_edge.runtimes.backends.buffers import Buffer, Device


class Backend(Protocol):
    """The four graphs of a bundle, ready to run.

    Attributes:
        name: of the runtime and where it runs, for example "onnxruntime (cpu)".
        device: where the graphs read and write.
    """

    name: str
    device: Device

    def check_objects(self, count: int) -> None:
        """Refuse more objects than one call takes.

        Raises:
            InputError: they are too many; what to do is said.
        """

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run one graph on all its inputs and write all its outputs.

        Raises:
            EtamError: the graph failed; outputs may hold anything.
        """
