"""Calls recorded as CUDA graphs: one launch in place of the many that a network takes."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from etam_edge.errors import CudaError
from etam_edge.runtimes.backends.cuda.driver import Cuda

LIMIT = 64
"""Recorded calls that are kept. One session makes a few; those of sessions that have ended go first."""
_WARM, _PLAIN = 0, -1

Key = tuple[Any, ...]
"""Name of a network, then the addresses that it was bound to: a recording holds those, and serves no others."""


class CudaGraphs:
    """Runs calls plainly the first time, records them the second, and launches the recording from then on.

    The first run lets a library load its kernels, which cannot be recorded. A call that cannot be recorded is run
    plainly for good.
    """

    def __init__(self, cuda: Cuda, stream: int, enabled: bool) -> None:
        self._cuda, self._stream = cuda, stream
        self._enabled = enabled and cuda.can_capture
        # A graph's handle, or what is to be done in its place; the call used last at the end.
        self._known: OrderedDict[Key, int] = OrderedDict()

    def run(self, key: Key, enqueue: Callable[[], None]) -> None:
        """
        Args:
            key: what the call is bound to.
            enqueue: puts the call on the stream.

        Raises:
            CudaError: it failed.
        """
        if not self._enabled:
            enqueue()
            return
        state = self._known.get(key)
        if state is None:
            enqueue()
            state = _WARM
        elif state == _WARM:
            state = self._record(enqueue)
            if state == _PLAIN:
                enqueue()
            else:
                self._cuda.launch(state, self._stream)
        elif state == _PLAIN:
            enqueue()
        else:
            self._cuda.launch(state, self._stream)
        self._known[key] = state
        self._known.move_to_end(key)
        while len(self._known) > LIMIT:
            self._destroy([self._known.popitem(last=False)[1]])

    def forget(self, name: str) -> None:
        """The recordings of a network no longer hold."""
        self._destroy([self._known.pop(key) for key in list(self._known) if key[0] == name])

    def clear(self) -> None:
        self._destroy(list(self._known.values()))
        self._known.clear()

    def _record(self, enqueue: Callable[[], None]) -> int:
        try:
            self._cuda.begin_capture(self._stream)
        except CudaError:
            return _PLAIN
        collecting = gc.isenabled()
        # Memory must not be freed while this thread records, and collected sessions free theirs.
        gc.disable()
        try:
            enqueue()
            failed = False
        except CudaError:
            failed = True
        finally:
            graph = self._cuda.end_capture(self._stream)
            if collecting:
                gc.enable()
        if failed and graph:
            self._cuda.destroy_graph(graph)
        return graph if graph and not failed else _PLAIN

    def _destroy(self, states: list[int]) -> None:
        graphs = [state for state in states if state > 0]
        if graphs:
            # One of them may be running.
            self._cuda.synchronize(self._stream)
        for graph in graphs:
            self._cuda.destroy_graph(graph)
