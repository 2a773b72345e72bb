"""Where a frame's time goes: a session whose backend, device and two methods are timed from outside.

The runtime's own code stays as it is. A device that works on while the host goes ahead is waited for after every stage,
else the time of one would fall to another; that wait is why stages are measured in a pass of their own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer, Device
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import Prompt

Clock = Callable[[], float]
Answer = TypeVar("Answer")

OTHER = "other"
STAGES = ("resize", "upload", "encode", "track", "download", "masks", "store")
"""Of a tracked frame: to the model's size, up, two graphs, down, to the frame's size, into the memory bank."""


def waiting_for(device: Device) -> Callable[[], None]:
    """What waits until the device has done all it was given; nothing where calls return when their work is done."""
    wait: Callable[[], None] | None = getattr(device, "synchronize", None)
    return wait or (lambda: None)


class Stopwatch:
    """Milliseconds of each stage of the frame in hand.

    Args:
        wait: for the device, at the end of every stage.
        clock: seconds.
    """

    def __init__(self, wait: Callable[[], None], clock: Clock = time.perf_counter) -> None:
        self._wait = wait
        self._clock = clock
        self._spent: dict[str, float] = defaultdict(float)

    def call(self, stage: str, work: Callable[[], Answer]) -> Answer:
        """Do a piece of work and count its time to a stage. Stages do not contain each other."""
        begin = self._clock()
        try:
            answer = work()
            self._wait()
            return answer
        finally:
            self._spent[stage] += 1e3 * (self._clock() - begin)

    def frame(self, work: Callable[[], object]) -> tuple[float, dict[str, float]]:
        """Do a frame's work: its whole time, and that of every stage with what remains, in milliseconds."""
        self._spent.clear()
        begin = self._clock()
        work()
        self._wait()
        whole = 1e3 * (self._clock() - begin)
        spent = {stage: self._spent.get(stage, 0.0) for stage in STAGES}
        # Graphs that only prompted frames run.
        spent |= {stage: time for stage, time in self._spent.items() if stage not in spent}
        return whole, {**spent, OTHER: max(whole - sum(spent.values()), 0.0)}


class TimedDevice:
    """A device whose transfers and copies are timed.

    Attributes:
        nbytes: bytes of all buffers that were made.
    """

    def __init__(self, device: Device, watch: Stopwatch) -> None:
        self._device = device
        self._watch = watch
        self.nbytes = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self._counted(self._device.empty(shape, dtype))

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self._counted(self._device.shared(shape, dtype))

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        self._watch.call("upload", lambda: self._device.upload(array, target))

    def download(self, source: Buffer) -> np.ndarray:
        return self._watch.call("download", lambda: self._device.download(source))

    def copy(self, source: Buffer, target: Buffer) -> None:
        self._watch.call("store", lambda: self._device.copy(source, target))

    def _counted(self, buffer: Buffer) -> Buffer:
        self.nbytes += buffer.nbytes
        return buffer


class TimedBackend:
    """A backend whose graphs are timed, on a device whose transfers are."""

    def __init__(self, backend: Backend, watch: Stopwatch) -> None:
        self.name = backend.name
        self.timed_device = TimedDevice(backend.device, watch)
        self.device: Device = self.timed_device
        self._backend = backend
        self._watch = watch

    def check_objects(self, count: int) -> None:
        self._backend.check_objects(count)

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._watch.call(graph, lambda: self._backend.run(graph, inputs, outputs))


class TimedStream:
    """A session of a bundle whose every frame is timed stage by stage.

    Args:
        tracker: the bundle.
        objects: that the session holds.
        clock: seconds.
        resize: how the host resizes, "exact" or "fast".

    Attributes:
        nbytes: of all buffers of the session.
    """

    def __init__(self, tracker: Tracker, objects: int, clock: Clock = time.perf_counter, resize: str = EXACT) -> None:
        self._watch = Stopwatch(waiting_for(tracker.backend.device), clock)
        backend = TimedBackend(tracker.backend, self._watch)
        self._session = Tracker(tracker.bundle, backend).start_session(max_objects=objects, resize=resize)
        self.nbytes = backend.timed_device.nbytes

    def track(self, frame: np.ndarray, prompts: dict[int, Prompt] | None) -> tuple[float, dict[str, float]]:
        """The next frame, uint8 (H, W, 3) RGB: milliseconds of the whole, and of every stage.

        Raises:
            EtamError: the session refuses it.
        """
        with _timed_functions(self._session, self._watch):
            return self._watch.frame(lambda: self._session.track(frame, prompts))


@contextmanager
def _timed_functions(session: Session, watch: Stopwatch) -> Iterator[None]:
    """Time the two ends of a frame, which are functions of the host, for the one frame in hand."""
    fit, finish = session._fit, session._result
    session._fit = lambda frame: watch.call("resize", lambda: fit(frame))  # type: ignore[method-assign]
    # The masks of a frame: logits gathered, brought to its size and cut at zero.
    session._result = lambda *given: watch.call("masks", lambda: finish(*given))  # type: ignore[method-assign]
    try:
        yield
    finally:
        # The class has them still.
        del session._fit, session._result
