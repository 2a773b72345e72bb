"""What the commands print with: results to standard output, progress to standard error."""

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

from etam_edge.errors import RuntimeUnavailableError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """Steps done of all steps, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


class _FramesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "- frames/s")


def frame_progress() -> Progress:
    """Frames done, frames per second and the time left, on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _FramesPerSecond(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, disable=not err.is_terminal)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def next_command(command: str) -> None:
    """Every command ends by naming the one that follows."""
    out.print(f"next: {command}", markup=False)


@contextmanager
def export_packages(what: str) -> Iterator[None]:
    """Around imports of what the extra `export` installs.

    Raises:
        RuntimeUnavailableError: one of them is missing.
    """
    try:
        yield
    except ImportError as error:
        raise RuntimeUnavailableError(
            f'{what} needs a package that is missing ({error.name}); install it with: pip install "etam-edge[export]"'
        ) from error
