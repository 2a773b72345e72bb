"""Calls captured as CUDA graphs: one launch instead of one for every kernel."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from etam_edge.errors import CudaError
from etam_edge.runtimes.backends.cuda.driver import Cuda

LIMIT = 64
"""Largest number of captured calls. A session has a few; the least recently used ones are dropped first."""
_WARM, _PLAIN = 0, -1

Key = tuple[Any, ...]
"""Name of a network and the addresses of its tensors. A captured call is valid for these addresses only."""


class CudaGraphs:
    """Runs a call directly the first time, captures it the second time, and launches the captured graph from then on.

    During the first run, libraries load their kernels, which cannot be captured. A call that cannot be captured is
    always run directly.

    Args:
        cuda: the GPU.
        stream: handle of the stream.
        enabled: False runs every call directly.
    """

    def __init__(self, cuda: Cuda, stream: int, enabled: bool) -> None:
        self._cuda, self._stream = cuda, stream
        self._enabled = enabled and cuda.can_capture
        # Handle of a graph, or _WARM or _PLAIN, in order of last use.
        self._known: OrderedDict[Key, int] = OrderedDict()

    def run(self, key: Key, enqueue: Callable[[], None]) -> None:
        """Run a call.

        Args:
            key: name and addresses of the call.
            enqueue: enqueues the call on the stream.

        Raises:
            CudaError: the call failed.
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
        """Drop the captured calls of a network."""
        self._destroy([self._known.pop(key) for key in list(self._known) if key[0] == name])

    def clear(self) -> None:
        """Drop all captured calls."""
        self._destroy(list(self._known.values()))
        self._known.clear()

    def _record(self, enqueue: Callable[[], None]) -> int:
        """Capture a call: the handle of its graph, or _PLAIN if it cannot be captured."""
        try:
            self._cuda.begin_capture(self._stream)
        except CudaError:
            return _PLAIN
        collecting = gc.isenabled()
        # Memory must not be freed while this thread captures, and garbage collection of sessions frees memory.
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
            # One of the graphs may be running.
            self._cuda.synchronize(self._stream)
        for graph in graphs:
            self._cuda.destroy_graph(graph)
