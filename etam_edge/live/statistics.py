"""What a live run does: age of the answers, frame time and skipped frames, in memory that does not grow."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SHARES = (50, 95, 99)
"""Percentiles that are reported."""
RESOLUTION = 0.01
"""Relative width of a bin of `Durations`, and so the largest error of a percentile."""
SHORTEST, LONGEST = 1e-6, 1e5
"""Seconds: durations beyond these limits are counted as the limit."""
HISTORY_SECONDS = 120
"""Length of the plots."""


@dataclass(frozen=True)
class Percentiles:
    """p50, p95 and p99 of durations, in milliseconds; NaN where there were none."""

    p50: float
    p95: float
    p99: float

    def __str__(self) -> str:
        return "/".join(f"{value:.1f}" for value in (self.p50, self.p95, self.p99)) + " ms"


class Durations:
    """A histogram of durations whose bins grow by 1 %: any number of them in 20 kB.

    Attributes:
        count: number of durations.
    """

    def __init__(self) -> None:
        bins = math.ceil(math.log(LONGEST / SHORTEST) / math.log1p(RESOLUTION)) + 1
        self._counts = np.zeros(bins, dtype=np.int64)
        self.count = 0

    def add(self, seconds: float) -> None:
        bounded = min(max(seconds, SHORTEST), LONGEST)
        self._counts[int(math.log(bounded / SHORTEST) / math.log1p(RESOLUTION))] += 1
        self.count += 1

    def percentiles(self) -> Percentiles:
        """Within 1 %."""
        if not self.count:
            return Percentiles(*[math.nan] * 3)
        sums = np.cumsum(self._counts)
        # The smallest bin that has at least this share of the durations at or below it; its middle stands for it.
        places = [int(np.searchsorted(sums, math.ceil(self.count * share / 100))) for share in SHARES]
        return Percentiles(*(1e3 * SHORTEST * (1 + RESOLUTION) ** (place + 0.5) for place in places))


@dataclass(frozen=True)
class LiveReport:
    """The figures of a stretch of a live run, or of the whole.

    Attributes:
        seconds: its length.
        frames: number of frames that were tracked.
        skipped: number of frames that came and were not tracked.
        age: from the capture of a frame to its masks.
        frame_time: that the tracker took for a frame.
        connections: how often the source has been opened, since the run began.
    """

    seconds: float
    frames: int
    skipped: int
    age: Percentiles
    frame_time: Percentiles
    connections: int = 1

    @property
    def skipped_share(self) -> float:
        """Share of the source's frames that were skipped, 0 to 1."""
        return self.skipped / (self.frames + self.skipped) if self.skipped else 0.0

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        text = f"{self.frames} frame{'' if self.frames == 1 else 's'} in {self.seconds:.1f} s, "
        text += f"{self.frames_per_second:.1f} frames/s"
        if self.frames:
            text += f", age {self.age}, frame time {self.frame_time} (p50/p95/p99)"
        text += f", {self.skipped} skipped ({100 * self.skipped_share:.1f} %)"
        return text if self.connections == 1 else f"{text}, opened {self.connections} times"


@dataclass(frozen=True)
class Second:
    """One second of the plots. Times are in milliseconds, None where no frame was tracked.

    Attributes:
        frames: number of frames tracked.
        skipped: number of frames skipped.
        age: median.
        worst_age: the largest.
        frame_time: median.
        worst_frame_time: the largest.
    """

    frames: int
    skipped: int
    age: float | None = None
    worst_age: float | None = None
    frame_time: float | None = None
    worst_frame_time: float | None = None


class LiveStatistics:
    """Counts what a run does.

    Args:
        clock: seconds, for tests.

    Attributes:
        history: of the last HISTORY_SECONDS seconds, the oldest first. Replaced, never changed, so that other threads
            can read it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._whole = _Stretch(self._begin)
        self._recent = _Stretch(self._begin)
        self._second: list[tuple[float, float]] = []
        self._second_begin, self._second_skipped = self._begin, 0
        self._history: deque[Second] = deque(maxlen=HISTORY_SECONDS)
        self.history: tuple[Second, ...] = ()

    def add(self, age: float, frame_time: float) -> None:
        """Count a frame.

        Args:
            age: seconds from its capture to its masks.
            frame_time: seconds that the tracker took.
        """
        for stretch in (self._whole, self._recent):
            stretch.age.add(age)
            stretch.frame_time.add(frame_time)
        self._second.append((age, frame_time))

    def tick(self, skipped: int) -> bool:
        """Complete a second of the history where one has passed. To be called at least every second.

        Args:
            skipped: number of frames skipped since the run began.

        Returns:
            whether the history has changed.
        """
        now = self._clock()
        if now - self._second_begin < 1:
            return False
        ages, times = zip(*self._second, strict=True) if self._second else ((), ())
        self._history.append(
            Second(
                len(self._second), skipped - self._second_skipped, *_middle_and_worst(ages), *_middle_and_worst(times)
            )
        )
        self._second = []
        # A pause longer than a second is one entry, so that the plots do not have to be filled.
        self._second_begin, self._second_skipped = now, skipped
        self.history = tuple(self._history)
        return True

    def recent(self, skipped: int, connections: int = 1) -> LiveReport:
        """The figures since the last call."""
        report = self._recent.report(self._clock(), skipped, connections)
        self._recent = _Stretch(self._clock(), skipped)
        return report

    def whole(self, skipped: int, connections: int = 1) -> LiveReport:
        """The figures since the run began."""
        return self._whole.report(self._clock(), skipped, connections)


class _Stretch:
    """A stretch of a run.

    Args:
        begin: reading of the clock.
        skipped: frames skipped before it.
    """

    def __init__(self, begin: float, skipped: int = 0) -> None:
        self.age = Durations()
        self.frame_time = Durations()
        self._begin = begin
        self._skipped = skipped

    def report(self, now: float, skipped: int, connections: int) -> LiveReport:
        return LiveReport(
            now - self._begin,
            self.age.count,
            skipped - self._skipped,
            self.age.percentiles(),
            self.frame_time.percentiles(),
            connections,
        )


def _middle_and_worst(seconds: Sequence[float]) -> tuple[float | None, float | None]:
    """Median and largest, in milliseconds."""
    if not seconds:
        return None, None
    return 1e3 * float(np.median(seconds)), 1e3 * max(seconds)
