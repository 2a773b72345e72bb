"""Several outputs that receive the same frames."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from etam_edge.errors import InputError
from etam_edge.interrupts import interrupts_held
from etam_edge.media.sinks.base import Output
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult


class Outputs:
    """Several outputs: each frame is written to all of them or, where one fails, kept by those before it.

    Ctrl-C and, in a program that calls `interrupts.raising_on_termination`, SIGTERM are delayed while a frame is
    written and while outputs are completed. In a `with` block, the outputs are completed however it ends.

    Attributes:
        count: number of frames written to all outputs.
        kept: paths of the outputs that were completed; empty before `close`.
    """

    def __init__(self) -> None:
        self._sinks: list[Output] = []
        self.count = 0
        self.kept: list[Path] = []

    @property
    def paths(self) -> list[Path]:
        """Files and folders that are written."""
        return [sink.path for sink in self._sinks]

    def add(self, sink: Output) -> None:
        self._sinks.append(sink)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """Write a frame to all outputs.

        Raises:
            InputError: one of them cannot be written.
        """
        with interrupts_held():
            for sink in self._sinks:
                sink.write(frame, result)
            self.count += 1

    def close(self) -> None:
        """Complete all outputs with the frames written so far, or remove them if there is none. Does nothing twice.

        Raises:
            InputError: of the first output that could not be completed; the others are.
        """
        failure: InputError | None = None
        with interrupts_held():
            # The last one first: folders were made by the first one that needed them.
            while self._sinks and not self.count:
                self._sinks.pop().discard()
            while self._sinks:
                sink = self._sinks.pop(0)
                try:
                    sink.close()
                    self.kept.append(sink.path)
                except InputError as error:
                    failure = failure or error
        if failure:
            raise failure

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
