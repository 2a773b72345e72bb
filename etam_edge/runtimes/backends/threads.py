"""The `threads` option of the backends that compute on a CPU."""

from __future__ import annotations

from etam_edge.errors import InputError, shown

AUTO = "auto"
MAX_THREADS = 1024
"""More threads for one graph than any machine has cores for."""
Threads = int | str | None
"""Threads for one graph: a number, or "auto" (None means the same)."""


def thread_count(threads: Threads) -> int | None:
    """The number that was asked for, or None where the backend chooses.

    Args:
        threads: a number from 1 on, "auto" or None.

    Raises:
        InputError: it is something else.
    """
    if threads is None or (isinstance(threads, str) and threads == AUTO):
        return None
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputError(f"threads must be a whole number or 'auto', not {shown(threads)}")
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {shown(threads)}")
    if threads > MAX_THREADS:
        raise InputError(f"threads must be at most {MAX_THREADS}, not {shown(threads)}")
    return threads
