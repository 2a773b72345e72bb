"""Kernels that were tried: several ways to compute the slowest parts of a frame, each alone, interleaved."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.kernels import Case, cases
from benchmarks.session_options import session_options
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import ratio_cells, table
from etam_edge.benchmark.result import ratio
from etam_edge.errors import EtamError

SIDES = (512, 1024)
SLOTS = 8
WARM_UP = 3
CLOSE = 0.15
"""Largest difference allowed, as a part of the plain result's largest value: int8 rounds, and a larger difference means
that something else is computed."""


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: the result of a way is wrong.
    """
    found = cases(SIDES, SLOTS)
    results: dict[str, Any] = {}
    tables = []
    rounds = WARM_UP + settings.frames
    with counted("kernels", rounds * sum(len(case.ways) for case in found)) as advance:
        for case in found:
            times = measure(case, rounds, settings.threads, lambda: advance("interleaved"))
            counting = {way: spent[WARM_UP:] for way, spent in times.items()}
            results[case.what] = counting
            plain = next(iter(counting))
            rows = [
                [
                    way,
                    f"{np.median(spent):.2f}",
                    f"{min(spent):.2f}",
                    *(["", ""] if way == plain else ratio_cells(ratio(spent, counting[plain]))),
                ]
                for way, spent in counting.items()
            ]
            header = ["", "median, ms", "minimum, ms", "ratio (95 %)", "of minima"]
            tables.append(table(f"{case.what}, n = {settings.frames}", header, rows))
    return Part("Kernels that were tried", results, tables)


def measure(case: Case, rounds: int, threads: int | None, step: Any = lambda: None) -> dict[str, list[float]]:
    """Milliseconds of every round, by way.

    Raises:
        EtamError: the result of a way differs from that of the first one.
    """
    import onnxruntime

    sessions = {
        way: onnxruntime.InferenceSession(data, session_options(threads), providers=["CPUExecutionProvider"])
        for way, data in case.ways.items()
    }
    times: dict[str, list[float]] = {way: [] for way in sessions}
    plain: np.ndarray | None = None
    for index in range(rounds):
        for way in sessions if index % 2 == 0 else reversed(sessions):
            begin = time.perf_counter()
            [answer] = sessions[way].run(None, case.feeds)
            times[way].append(1e3 * (time.perf_counter() - begin))
            step()
            if plain is None:
                plain = answer
            elif index == 0 and np.abs(answer - plain).max() > CLOSE * np.abs(plain).max():
                raise EtamError(f"{case.what}: '{way}' answers something else than the plain form")
    return times
