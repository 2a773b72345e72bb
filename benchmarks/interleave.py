"""Candidates interleaved frame by frame in one process: what slows the machine down affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from etam_edge.benchmark.result import Ratio, Timing, ratio

OTHER_MASKS = 0.9
"""Mean IoU with the first candidate's masks below which the masks count as different."""


REST = 0.1
"""Seconds of pause before each frame. With ONNX Runtime's defaults, threads spin for some 35 ms after a graph and would
slow down the next candidate."""


class Runner(Protocol):
    """Tracks one object through the frames of a scene."""

    def step(self, index: int) -> None:
        """Track the frame of this index; they come one after the other from 0 on. This is what is timed.

        Raises:
            EtamError: the frame cannot be tracked.
        """

    def logits(self) -> np.ndarray:
        """Mask logits of the frame just tracked, float32 (S/4, S/4)."""


@dataclass(frozen=True)
class Agreement:
    """How far a candidate's masks are from those of the first one, over the frames that count.

    Attributes:
        mean_iou, smallest_iou: of masks at S/4 pixels; two empty masks agree.
        relative_error: root mean square of the difference of logits over that of the logits.
        largest_error: largest difference of a logit.
    """

    mean_iou: float
    smallest_iou: float
    relative_error: float
    largest_error: float

    @property
    def same_masks(self) -> bool:
        return self.mean_iou >= OTHER_MASKS


@dataclass(frozen=True)
class Entry:
    """One candidate's run.

    Attributes:
        name: of it.
        milliseconds: of every frame, warm-up included.
        whole: of those after the warm-up.
        ratio: time of the first candidate over this one's: above 1 this one is faster. None for the first.
        agreement: with the first candidate; None for the first.
    """

    name: str
    milliseconds: list[float]
    whole: Timing
    ratio: Ratio | None
    agreement: Agreement | None


def interleave(
    runners: Mapping[str, Runner],
    warm_up: int,
    frames: int,
    step: Callable[[str], None] = lambda what: None,
    clock: Callable[[], float] = time.perf_counter,
    first: int = 0,
) -> list[Entry]:
    """Time all runners over the same frames.

    Args:
        runners: by name; the first one is what masks are compared with.
        warm_up: frames at the beginning that do not count.
        frames: that count.
        step: called with the name after every frame of every candidate.
        clock: seconds.
        first: index of the first frame: where an earlier call on the same runners ended.

    Raises:
        EtamError: a runner cannot track a frame.
    """
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    compared: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names[1:]}
    for index in range(warm_up + frames):
        for name in order(names, index):
            time.sleep(REST)
            begin = clock()
            runners[name].step(first + index)
            times[name].append(1e3 * (clock() - begin))
            step(name)
        if index >= warm_up:
            expected = runners[names[0]].logits()
            for name in names[1:]:
                compared[name].append(_compare(runners[name].logits(), expected))
    entries = []
    for number, name in enumerate(names):
        counted = times[name][warm_up:]
        entries.append(
            Entry(
                name=name,
                milliseconds=times[name],
                whole=Timing.of(counted),
                ratio=ratio(counted, times[names[0]][warm_up:]) if number else None,
                agreement=_agreement(compared[name]) if number else None,
            )
        )
    return entries


def order(names: Sequence[str], index: int) -> list[str]:
    """Order of the candidates on a frame: the first one changes, and every second frame the order is reversed.

    A later candidate finds other caches and another state of the allocator: none always follows the same one.
    """
    first = (index // 2) % len(names)
    turned = [*names[first:], *names[:first]]
    return turned if index % 2 == 0 else turned[::-1]


def _compare(logits: np.ndarray, expected: np.ndarray) -> tuple[float, float, float, float]:
    """IoU, mean squares of difference and of what is expected, and the largest difference."""
    ours, theirs = logits > 0, expected > 0
    union = int(np.sum(ours | theirs))
    difference = logits.astype(np.float64) - expected
    return (
        int(np.sum(ours & theirs)) / union if union else 1.0,
        float(np.mean(difference**2)),
        float(np.mean(expected.astype(np.float64) ** 2)),
        float(np.max(np.abs(difference))),
    )


def _agreement(rows: Sequence[tuple[float, float, float, float]]) -> Agreement:
    overlap, squares, expected, largest = (np.array(column) for column in zip(*rows, strict=True))
    return Agreement(
        mean_iou=float(overlap.mean()),
        smallest_iou=float(overlap.min()),
        relative_error=float(np.sqrt(squares.mean() / max(expected.mean(), 1e-30))),
        largest_error=float(largest.max()),
    )
