"""What the commands print with: results to standard output, progress and warnings to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
from rich.text import Text

from etam_edge.cli import options
from etam_edge.workflows.progress import Progress as WorkflowProgress
from etam_edge.workflows.progress import ProgressCallback

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Speed(ProgressColumn):
    """Frames per second, for stages that count frames."""

    def render(self, task: Task) -> Text:
        if task.fields.get("unit") != "frame":
            return Text("")
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "- frames/s")


def frame_progress() -> Progress:
    """Steps done, frames per second and the time left, on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
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
            text = f"{progress.stage} {progress.description}".rstrip()
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total, description=text)

        yield show


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def warn(text: str) -> None:
    """A warning on standard error, in one line."""
    err.print(f"warning: {text}", markup=False, emoji=False)


def next_command(command: str) -> None:
    """Every command ends by naming the one that usually follows; not with --quiet."""
    if not options.is_quiet:
        out.print(f"next: {command}", markup=False)
