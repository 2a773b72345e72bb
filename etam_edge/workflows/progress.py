"""Progress of a workflow: one callback, told after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a workflow has come in its current stage.

    A workflow has one or several stages, one after another. A stage is announced with `done=0`.

    Attributes:
        stage: its name, for example "export", "calibration" or "check".
        description: what is being worked on, for example a graph or a clip; "" at first.
        done: number of steps done in this stage.
        total: number of steps of this stage, or None where it is not known beforehand.
        unit: what a step is: "step", "sample" or "frame".
    """

    stage: str
    description: str = ""
    done: int = 0
    total: int | None = None
    unit: str = "step"

    def __str__(self) -> str:
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        return f"{self.stage} {self.description}".rstrip() + f" ({count} {self.unit}s)"


ProgressCallback = Callable[[Progress], None]
"""Called with the progress after every step, in the thread that called the workflow. An exception that it raises ends
the workflow; nothing incomplete is left on disk."""


class Stage:
    """One stage of a workflow, which tells a callback of its steps.

    Args:
        callback: told of the beginning and of every step, or None.
        name: `Progress.stage`.
        total: number of steps, or None.
        unit: what a step is.
    """

    def __init__(self, callback: ProgressCallback | None, name: str, total: int | None, unit: str = "step") -> None:
        self._callback = callback
        self._progress = Progress(name, total=total, unit=unit)
        self._tell()

    def step(self, description: str = "") -> None:
        """One more step is done."""
        self.update(self._progress.done + 1, description)

    def update(self, done: int, description: str = "") -> None:
        """`done` steps are done in all, and this is being worked on."""
        self._progress = replace(self._progress, done=done, description=description)
        self._tell()

    def _tell(self) -> None:
        if self._callback is not None:
            self._callback(self._progress)
