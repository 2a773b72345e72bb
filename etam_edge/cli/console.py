"""What the commands print with: results to standard output, progress to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def progress_bar() -> Progress:
    """Steps done of all steps, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def next_command(command: str) -> None:
    """Every command ends by naming the one that follows."""
    out.print(f"next: {command}", markup=False)
