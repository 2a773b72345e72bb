"""Where the frames of a live run go: outputs on disk, a window, a Rerun viewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from etam_edge.errors import InputError
from etam_edge.live.loop import Sink
from etam_edge.live.rerun_log import RerunLog
from etam_edge.live.window import Window
from etam_edge.media.sinks import OutputRequest, Outputs
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult


class LiveSinks(Sink):
    """Outputs on disk, a window and a Rerun viewer, each where it was asked for. Use it in a `with` block.

    Where frames change their size, the outputs are completed, and further ones are written beside them: `scores.jsonl`
    is followed by `scores_2.jsonl`.

    Args:
        request: outputs on disk.
        frames_per_second: of the source, or None where it is not known.
        object_ids: that are known beforehand.
        labels: names of objects, by id; looked up on every frame.
        window: opened, or None.
        rerun: opened, or None.

    Attributes:
        kept: files and folders that were completed.
    """

    def __init__(
        self,
        request: OutputRequest,
        frames_per_second: float | None,
        object_ids: Sequence[int],
        labels: Mapping[int, str],
        window: Window | None = None,
        rerun: RerunLog | None = None,
    ) -> None:
        self._request = request
        self._open: Callable[[OutputRequest, tuple[int, int]], Outputs] = lambda wanted, shape: wanted.open(
            frames_per_second, shape, object_ids, labels
        )
        self._window = window
        self._rerun = rerun
        self._outputs: Outputs | None = None
        self._part = 1
        self._written = False
        self.kept: list[Path] = []

    @property
    def stopped(self) -> bool:
        """Whether the user closed the window."""
        return self._window is not None and self._window.closed

    def open(self, frame_shape: tuple[int, int]) -> None:
        """Open the outputs for frames of (H, W) pixels.

        Raises:
            InputError: one of them cannot be written.
        """
        self._outputs = self._open(self._request, frame_shape)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        if self._outputs is None:
            height, width = frame.pixels.shape[:2]
            self.open((height, width))
        if self._outputs is None:
            raise RuntimeError("the outputs were not opened")
        self._outputs.write(frame, result)
        self._written = True
        if self._rerun is not None:
            self._rerun.write(frame, result)
        if self._window is not None:
            self._window.write(frame, result)

    def timings(self, age: float, frame_time: float, skipped: int) -> None:
        if self._rerun is not None:
            self._rerun.timings(age, frame_time, skipped)

    def idle(self) -> None:
        if self._window is not None:
            self._window.idle()

    def restart(self) -> None:
        """
        Raises:
            InputError: an output could not be completed.
        """
        self._complete_outputs()
        self._part += 1
        output, masks, scores = (
            _numbered(path, self._part) for path in (self._request.output, self._request.masks, self._request.scores)
        )
        self._request = replace(self._request, output=output, masks=masks, scores=scores)

    def __enter__(self) -> LiveSinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Complete everything with the frames written so far. Does nothing twice.

        Raises:
            InputError: of the first output that could not be completed; the others are.
        """
        failure: InputError | None = None
        for complete in (self._complete_outputs, self._complete_rerun):
            try:
                complete()
            except InputError as error:
                failure = failure or error
        if self._window is not None:
            self._window.close()
        if failure:
            raise failure

    def _complete_outputs(self) -> None:
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            try:
                outputs.close()
            finally:
                self.kept += outputs.kept

    def _complete_rerun(self) -> None:
        rerun, self._rerun = self._rerun, None
        if rerun is not None and not self._written:
            rerun.discard()
        elif rerun is not None:
            rerun.close()
            self.kept += [rerun.path] if rerun.path is not None else []


def _numbered(path: Path | None, part: int) -> Path | None:
    """The name of a further part: run.mp4 is followed by run_2.mp4. Devices and pipes go on under their own name."""
    if path is None or not (path.is_dir() or path.is_file()):
        return path
    stem = path.stem.removesuffix(f"_{part - 1}") if part > 2 else path.stem
    return path.with_name(f"{stem}_{part}{path.suffix}")
