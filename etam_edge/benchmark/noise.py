"""What else a machine does while something is measured on it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from etam_edge.benchmark import machine
from etam_edge.benchmark.result import Noise, ObjectsRun
from etam_edge.benchmark.stages import Clock

BUSY = 0.5
"""Load at the start, a core, above which others are at work."""
SCATTER = 1.5
"""p95 over p50 of whole frames above which times scatter."""
PACE = 1.2
"""Change of a fixed piece of work above which the clock fell, or others came."""
_REPEATS = 7
_VALUES = 200_000


class NoiseWatch:
    """Looks at the machine when it is made and when the run has ended.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._load = machine.load()
        self._pace = _pace(clock)

    def finish(self, runs: Sequence[ObjectsRun], cores: int) -> Noise:
        """
        Args:
            runs: that were measured meanwhile.
            cores: that this process may use.
        """
        after = _pace(self._clock)
        found = [
            *busy_warning(self._load, cores),
            *pace_warning(self._pace, after),
            *(warning for run in runs for warning in scatter_warnings(run)),
        ]
        return Noise(self._load, machine.load(), self._pace, after, found)


def busy_warning(load: float | None, cores: int) -> list[str]:
    """One sentence where others kept the machine busy when the run began."""
    if load is None or load <= BUSY * cores:
        return []
    return [
        f"the machine was busy when this began (a load of {load:.1f} on {cores} core{'s' if cores > 1 else ''}): "
        "figures are larger than on an idle one; end other work and measure again"
    ]


def pace_warning(before: float, after: float) -> list[str]:
    """One sentence where the CPU itself became slower or faster."""
    change = max(before, after) / max(min(before, after), 1e-9)
    if change <= PACE:
        return []
    return [
        f"the CPU's pace changed meanwhile (a fixed piece of work took {before:.2f} ms before and {after:.2f} ms "
        "after): other work, or a clock that is throttled; measure again"
    ]


def scatter_warnings(run: ObjectsRun) -> list[str]:
    """One sentence for each side whose times scatter."""
    return [
        f"times of {side.side} with {run.objects} object{'s' if run.objects > 1 else ''} scatter "
        f"(p95 is {side.whole.p95 / side.whole.p50:.1f} times p50): the machine did other things; measure again"
        for side in run.sides
        if side.whole.p95 > SCATTER * side.whole.p50
    ]


def _pace(clock: Clock) -> float:
    """Milliseconds of a fixed piece of work on one core, the fastest of a few."""
    values = np.random.default_rng(0).permutation(_VALUES)
    times = []
    for _ in range(_REPEATS):
        begin = clock()
        np.sort(values)
        times.append(1e3 * (clock() - begin))
    return min(times)
