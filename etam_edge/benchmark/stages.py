"""Time of the stages of a frame, measured by an observer of the session.

On a GPU, the observer waits for the device at the end of every stage; otherwise the work of one stage would be measured
in a later one. Waiting takes time itself, so stages are measured in a separate pass and not together with whole frames.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from etam_edge.runtimes.backends.buffers import Device
from etam_edge.runtimes.observer import DOWNLOAD, ENCODE, MASKS, RESIZE, STORE, TRACK, UPLOAD
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import Prompt

Clock = Callable[[], float]

OTHER = "other"
STAGES = (RESIZE, UPLOAD, ENCODE, TRACK, DOWNLOAD, MASKS, STORE)
"""Stages of a frame without prompts, in the order in which they are reported."""


def waiting_for(device: Device) -> Callable[[], None]:
    """A function that waits until the device has finished all work submitted to it.

    It does nothing for devices whose calls return when their work is done.
    """
    wait: Callable[[], None] | None = getattr(device, "synchronize", None)
    return wait or (lambda: None)


class Stopwatch:
    """A session observer that adds up the time of each stage of a frame.

    Args:
        wait: waits for the device; called at the end of every stage.
        clock: seconds.
    """

    def __init__(self, wait: Callable[[], None], clock: Clock = time.perf_counter) -> None:
        self._wait = wait
        self._clock = clock
        self._begun = 0.0
        self._spent: dict[str, float] = defaultdict(float)

    def begin(self, stage: str) -> None:
        self._begun = self._clock()

    def end(self, stage: str) -> None:
        self._wait()
        self._spent[stage] += 1e3 * (self._clock() - self._begun)

    def frame(self, work: Callable[[], object]) -> tuple[float, dict[str, float]]:
        """Process one frame.

        Args:
            work: tracks the frame, in a session that this stopwatch observes.

        Returns:
            milliseconds of the whole frame, and of its stages by name: all of STAGES, the graphs of prompted objects
            where they ran, and OTHER for the remaining time.
        """
        self._spent.clear()
        begin = self._clock()
        work()
        self._wait()
        whole = 1e3 * (self._clock() - begin)
        spent = {stage: self._spent.get(stage, 0.0) for stage in STAGES}
        spent |= {stage: time for stage, time in self._spent.items() if stage not in spent}
        return whole, {**spent, OTHER: max(whole - sum(spent.values()), 0.0)}


class TimedStream:
    """A session whose frames are timed stage by stage.

    Args:
        tracker: the bundle.
        objects: number of objects that the session can hold.
        clock: seconds.
        resize: how the host resizes, "exact" or "fast".

    Attributes:
        nbytes: size of all buffers of the session.
    """

    def __init__(self, tracker: Tracker, objects: int, clock: Clock = time.perf_counter, resize: str = EXACT) -> None:
        self._watch = Stopwatch(waiting_for(tracker.backend.device), clock)
        self._session = tracker.start_session(max_objects=objects, resize=resize, observer=self._watch)
        self.nbytes = self._session.nbytes

    def track(self, frame: np.ndarray, prompts: dict[int, Prompt] | None) -> tuple[float, dict[str, float]]:
        """Track the next frame.

        Args:
            frame: uint8 (H, W, 3) RGB.
            prompts: by object id.

        Returns:
            milliseconds of the whole frame, and of its stages as `Stopwatch.frame` returns them.

        Raises:
            EtamError: the session refuses the frame.
        """
        return self._watch.frame(lambda: self._session.track(frame, prompts))
