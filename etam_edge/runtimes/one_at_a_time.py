"""One call at a time: a method that is called while another call of the same object runs is refused, and does not wait.

A lock would do, if it could not be left behind: a signal handler that raises (Ctrl-C) may run between the moment when a
lock is taken and the `try` that gives it back, or inside the `finally` that does so. Here a call is recorded by its
frame, and Python knows of a frame whether it still runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Concatenate, ParamSpec, TypeVar

from etam_edge.errors import InputError

_Self = TypeVar("_Self", bound="OneAtATime")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class OneAtATime:
    """An object whose methods that are decorated with `one_at_a_time` exclude each other, in all threads."""

    def __init__(self) -> None:
        self._calls: dict[FrameType, None] = {}

    def _refuse_second_call(self, mine: FrameType) -> None:
        for other in list(self._calls):
            if other is mine:
                continue
            if not _has_ended(other):
                what = type(self).__name__.lower()
                raise InputError(
                    f"this {what} is in use by another call, in another thread or in an observer; use it from one "
                    f"thread at a time, or start a {what} for each thread"
                )
            self._calls.pop(other, None)


def one_at_a_time(
    method: Callable[Concatenate[_Self, _Parameters], _Result],
) -> Callable[Concatenate[_Self, _Parameters], _Result]:
    """A method that raises an InputError while another decorated method of its object runs."""

    @functools.wraps(method)
    def call(self: _Self, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        mine = sys._getframe()
        calls = self._calls
        try:
            calls[mine] = None
            # Of two calls, the one that is recorded second sees both.
            if len(calls) > 1:
                self._refuse_second_call(mine)
            return method(self, *args, **kwargs)
        finally:
            calls.pop(mine, None)
            # A frame that holds itself would keep the call's arguments until the garbage collector runs.
            del mine

    return call


def _has_ended(frame: FrameType) -> bool:
    """Whether a call no longer runs: a signal handler raised an exception just before its record was removed."""
    try:
        frame.clear()
    except RuntimeError:  # It is executing.
        return False
    return True
