"""Figures of a live run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etam_edge.live.statistics import HISTORY_SECONDS, Durations, LiveStatistics, Percentiles


def test_percentiles_are_within_one_percent() -> None:
    durations = Durations()
    values = np.random.default_rng(0).lognormal(-4, 1, 5000)
    for value in values:
        durations.add(float(value))
    found = durations.percentiles()
    expected = 1e3 * np.percentile(values, (50, 95, 99), method="inverted_cdf")
    np.testing.assert_allclose((found.p50, found.p95, found.p99), expected, rtol=0.01)


def test_durations_beyond_the_limits_are_counted() -> None:
    durations = Durations()
    for value in (-1.0, 0.0, 1e9):
        durations.add(value)
    assert durations.count == 3
    assert durations.percentiles().p50 < 0.01
    assert durations.percentiles().p99 == pytest.approx(1e8, rel=0.02)


def test_no_durations_have_no_percentiles() -> None:
    assert all(math.isnan(value) for value in vars(Durations().percentiles()).values())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_reports_cover_their_own_stretch_and_the_whole() -> None:
    clock = Clock()
    statistics = LiveStatistics(clock)
    for _ in range(10):
        statistics.add(0.02, 0.01)
    clock.now = 105
    first = statistics.recent(skipped=30)
    for _ in range(20):
        statistics.add(0.2, 0.1)
    clock.now = 115
    second, whole = statistics.recent(skipped=40), statistics.whole(skipped=40, connections=3)
    assert (first.frames, first.skipped, first.seconds, first.skipped_share) == (10, 30, 5, 0.75)
    assert (second.frames, second.skipped, second.seconds, second.frames_per_second) == (20, 10, 10, 2)
    assert second.age.p50 == pytest.approx(200, rel=0.01)
    assert (whole.frames, whole.skipped, whole.seconds) == (30, 40, 15)
    assert str(whole).startswith("30 frames in 15.0 s, 2.0 frames/s, age ")
    assert str(whole).endswith(" (p50/p95/p99), 40 skipped (57.1 %), opened 3 times")


def test_a_run_without_frames_has_a_report() -> None:
    clock = Clock()
    assert str(LiveStatistics(clock).whole(0)) == "0 frames in 0.0 s, 0.0 frames/s, 0 skipped (0.0 %)"


def test_history_has_one_entry_a_second_and_is_bounded() -> None:
    clock = Clock()
    statistics = LiveStatistics(clock)
    assert not statistics.tick(0)
    statistics.add(0.030, 0.010)
    statistics.add(0.050, 0.020)
    statistics.add(0.040, 0.030)
    clock.now += 1
    assert statistics.tick(7)
    (second,) = statistics.history
    assert (second.frames, second.skipped) == (3, 7)
    figures = (second.age, second.worst_age, second.frame_time, second.worst_frame_time)
    assert figures == pytest.approx((40, 50, 20, 30))
    for _ in range(2 * HISTORY_SECONDS):
        clock.now += 1
        statistics.tick(7)
    assert len(statistics.history) == HISTORY_SECONDS
    assert statistics.history[-1].age is None


def test_percentiles_print_as_milliseconds() -> None:
    assert str(Percentiles(1.23, 4.5, 100.0)) == "1.2/4.5/100.0 ms"
