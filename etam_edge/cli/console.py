"""What the commands print with: results to standard output, progress and warnings to standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from etam_edge.cli import options
from etam_edge.printable import printable
from etam_edge.workflows.progress import Progress as WorkflowProgress
from etam_edge.workflows.progress import ProgressCallback


class _Plain(Console):
    """Prints text as it is: names of files and clips may look like markup, or hold control characters."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        # rich ends the process with 1, which says that a check failed.
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(options.BROKEN_PIPE) from None

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


out = _Plain()
err = _Plain(stderr=True)


class _Speed(ProgressColumn):
    """Frames per second, for stages that count frames."""

    def render(self, task: Task) -> Text:
        if task.fields.get("unit") != "frame":
            return Text("")
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "- frames/s")


def frame_progress() -> Progress:
    """Steps done, frames per second and the time left, on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, disable=options.is_quiet or not err.is_terminal)


@contextmanager
def showing_progress() -> Iterator[ProgressCallback]:
    """A callback for a workflow's progress, which shows a bar for each stage while the block runs."""
    with frame_progress() as bar:
        tasks = {}

        def show(progress: WorkflowProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total, unit=progress.unit)
            text = printable(f"{progress.stage} {progress.description}".rstrip())
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total, description=text)

        yield show


def name_column(header: str, names: Iterable[str]) -> Column:
    """A table's column of names that are whole on narrow terminals too, so that they can be copied."""
    return Column(header, no_wrap=True, min_width=max(map(len, names), default=0))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and texts in two columns."""
    rows = list(facts)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, text in rows:
        out.print(f"{name + ':':<{width}}{text}")


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def warn(text: str) -> None:
    """A warning on standard error, in one line."""
    err.print(f"warning: {text}")


def next_command(command: str) -> None:
    """Every command ends by naming the one that usually follows; not with --quiet."""
    if not options.is_quiet:
        out.print(f"next: {command}")
