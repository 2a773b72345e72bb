"""Ctrl-C during work in C++ that does not return to Python's own handler."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag instead of raising KeyboardInterrupt; yields a function that returns the flag.

    Signal handlers belong to the main thread: in any other, the flag is never set.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    held = threading.current_thread() is threading.main_thread() and before is not None
    if held:
        signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        if held:
            signal.signal(signal.SIGINT, before)
