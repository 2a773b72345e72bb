"""Ctrl-C (SIGINT) and requests to end the process (SIGTERM, SIGHUP): raised as exceptions, delayed, or noted.

Python raises KeyboardInterrupt for SIGINT only; the other two end the process at once, with open outputs lost. A
program calls `raising_on_termination` so that all three unwind the stack. Signal handlers belong to the main thread: in
any other, the functions of this module change nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals by which systemd, Docker and a closed terminal end a process."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal other than SIGINT.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code by which shells report a signal: 128 and its number, 130 for Ctrl-C and 143 for SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextmanager
def raising_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` in the main thread while the block runs.

    A signal that the process ignores (SIGHUP under nohup) or handles already is left as it is.
    """

    def end(number: int, _: Any) -> None:
        raise Terminated(number)

    with _handlers(end, [number for number in TERMINATION if signal.getsignal(number) is signal.SIG_DFL]):
        yield


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay the signals that raise an exception until the end of the block, which is then done whole."""
    held: list[int] = []
    try:
        with _handlers(lambda number, _: held.append(number), _raising()):
            yield
    finally:
        if held:
            signal.raise_signal(held[0])


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """A flag is set instead of an exception raised, for work in C++ that does not return to Python's own handler.

    Yields:
        a function that returns the flag.
    """
    noted: list[int] = []
    try:
        with _handlers(lambda number, _: noted.append(number), _raising()):
            yield lambda: bool(noted)
    except KeyboardInterrupt:
        # By which of the signals it was, the work did not know.
        if noted:
            signal.raise_signal(noted[0])
        raise


def _raising() -> list[int]:
    """Signals whose handler is a Python function, and may raise: the others are ignored or end the process."""
    return [number for number in (signal.SIGINT, *TERMINATION) if callable(signal.getsignal(number))]


@contextmanager
def _handlers(handler: Callable[[int, Any], Any], numbers: list[int]) -> Iterator[None]:
    """A handler for these signals while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
