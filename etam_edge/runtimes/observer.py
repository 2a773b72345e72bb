"""Observers: a session reports when the stages of a frame begin and end, for timers, tracers and profilers.

Without an observer nothing is wrapped, so observing costs nothing where it is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer, Device

Result = TypeVar("Result")

RESIZE, UPLOAD, ENCODE, TRACK = "resize", "upload", "encode", "track"
PROMPT, REMEMBER = "prompt", "remember"
DOWNLOAD, MASKS, STORE = "download", "masks", "store"


class SessionObserver(Protocol):
    """Receives the beginning and end of every stage. Stages do not overlap; most occur several times a frame:

    - "resize": the frame is resized to the model's size on the host;
    - "upload", "download": data is copied from the host to the device and back;
    - "encode", "track": the graphs of every frame run;
    - "prompt", "remember": the graphs of prompted objects run;
    - "masks": mask logits are enlarged to the frame's size and thresholded;
    - "store": an entry is copied into the memory bank.

    A GPU works asynchronously: a stage ends when its work has been submitted. An observer that measures time must wait
    for the device, as `etam_edge.benchmark.stages.Stopwatch` does. An observer must not raise: "store" is reported
    while a frame is being committed.
    """

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def end(self, stage: str) -> None:
        """The stage ends, also where it failed."""


@contextmanager
def observed(observer: SessionObserver, stage: str) -> Iterator[None]:
    """Report the block as a stage."""
    observer.begin(stage)
    try:
        yield
    finally:
        observer.end(stage)


def call(observer: SessionObserver | None, stage: str, work: Callable[[], Result]) -> Result:
    """The result of `work`, reported as a stage where there is an observer."""
    if observer is None:
        return work()
    with observed(observer, stage):
        return work()


class ObservedDevice:
    """A device whose transfers and copies are reported."""

    def __init__(self, device: Device, observer: SessionObserver) -> None:
        self._device = device
        self._observer = observer

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self._device.empty(shape, dtype)

    def shared(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return self._device.shared(shape, dtype)

    def upload(self, array: np.ndarray, target: Buffer) -> None:
        with observed(self._observer, UPLOAD):
            self._device.upload(array, target)

    def download(self, source: Buffer) -> np.ndarray:
        with observed(self._observer, DOWNLOAD):
            return self._device.download(source)

    def view(self, source: Buffer) -> np.ndarray | None:
        return self._device.view(source)

    def download_all(self, sources: Sequence[Buffer]) -> list[np.ndarray]:
        with observed(self._observer, DOWNLOAD):
            return self._device.download_all(sources)

    def copy(self, source: Buffer, target: Buffer) -> None:
        with observed(self._observer, STORE):
            self._device.copy(source, target)


class ObservedBackend:
    """A backend whose graphs are reported by name, on a device whose transfers are."""

    def __init__(self, backend: Backend, observer: SessionObserver) -> None:
        self.name = backend.name
        self.max_objects = backend.max_objects
        self.device: Device = ObservedDevice(backend.device, observer)
        self._backend = backend
        self._observer = observer

    def check_objects(self, count: int) -> None:
        self._backend.check_objects(count)

    def run(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        with observed(self._observer, graph):
            self._backend.run(graph, inputs, outputs)

    def close(self) -> None:
        self._backend.close()
