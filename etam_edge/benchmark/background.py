"""A reproducible background load: processes that keep one core each busy while something is measured."""

from __future__ import annotations

import subprocess
import sys
import time
from types import TracebackType
from typing import IO, cast

from etam_edge.errors import EtamError, InputError

VALUES = 200_000
"""Numbers that a process sorts again and again: 1.6 MB, more than a core's own cache holds."""
MAX_PROCESSES = 256
START_TIMEOUT = 30.0
"""Seconds that the processes have to start."""
_PROGRAM = f"""
import os, sys
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np
values = np.random.default_rng(0).permutation({VALUES})
print("ready", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(20):
        np.sort(values)
"""
"""It also ends when the process that started it has ended."""
DESCRIPTION = f"processes that sort {VALUES:,} fixed 64-bit integers in NumPy without a pause, one thread each"


class BackgroundLoad:
    """Keeps `processes` single-threaded processes computing from `__enter__` to `__exit__`.

    Each process sorts the same 200,000 integers in an endless loop, at the normal priority. The work is always the
    same, so that a figure measured beside N processes can be measured again.

    Args:
        processes: how many; 0 starts none.

    Raises:
        InputError: the number is negative or above 256.
    """

    def __init__(self, processes: int) -> None:
        if not 0 <= processes <= MAX_PROCESSES:
            raise InputError(f"{processes} busy processes are not possible; give a number from 0 to {MAX_PROCESSES}")
        self.processes = processes
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> BackgroundLoad:
        """
        Raises:
            EtamError: a process does not start.
        """
        try:
            for _ in range(self.processes):
                # -S, -E and -I are left out: NumPy must be found as in this process.
                self._running.append(
                    subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
                )
            begin = time.monotonic()
            for process in self._running:
                line = cast(IO[bytes], process.stdout).readline()
                if line.strip() != b"ready" or time.monotonic() - begin > START_TIMEOUT:
                    raise EtamError("a process of the background load did not start; measure without `busy`")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._running.clear()
