"""The settings of a run, and the result of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bundles import Bundles

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        models: names.
        candidates: names of those that are measured; empty for all.
        frames: that count, of each candidate.
        warm_up: frames before them.
        stream: frames of the long stream.
        starts: fresh processes of each kind.
        reference: folder of the reference's checkout.
        also: folders of further bundles by a name for them, each with a bundle named as a model.
        threads: of PyTorch and of ONNX Runtime; None lets them choose.
        output: folder for what is written.
        busy: processes of the background load beside which whole frames are measured a second time; 0 for none.
    """

    models: Sequence[str]
    frames: int
    warm_up: int
    stream: int
    starts: int
    output: Path
    bundles: Bundles
    candidates: Sequence[str] = ()
    reference: Path | None = None
    also: dict[str, Path] = field(default_factory=dict)
    threads: int | None = None
    busy: int = 0

    @property
    def all_frames(self) -> int:
        """Frames that a candidate tracks in one run: warm-up, counted frames, and the busy ones."""
        return self.warm_up + self.frames * (2 if self.busy else 1)


@dataclass(frozen=True)
class Part:
    """The result of a part.

    Attributes:
        title: of its section.
        results: for the JSON file: all times in milliseconds, memory in bytes.
        tables: in Markdown, each with a line that says what it is.
        warnings: a sentence for whatever makes a figure worth less.
        plots: PNG files by name.
    """

    title: str
    results: dict[str, Any]
    tables: list[str]
    warnings: list[str] = field(default_factory=list)
    plots: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def counted(label: str, total: int) -> Iterator[Advance]:
    """A progress bar on standard error, advanced with the name of what was done after every step."""
    from etam_edge.cli.console import frame_progress

    with frame_progress() as bar:
        task = bar.add_task(label, total=total)
        yield lambda what: bar.update(task, advance=1, description=f"{label}: {what}")
