"""A source read in a thread: the newest frame, a queue, or every frame; opened again where it breaks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from types import TracebackType

from etam_edge.errors import EtamError, InputError
from etam_edge.media.sinks import DEFAULT_RATE
from etam_edge.media.sources import Cause, Ending, FrameSource, NamedFrame

FIRST_WAIT = 0.5
"""Seconds before a source that broke is opened again. Each further attempt waits twice as long."""
LONGEST_WAIT = 30.0
"""Seconds between two attempts, at most."""
HEALTHY_FRAMES = 10
"""Frames after which a connection counts as good, so that the next attempt waits for FIRST_WAIT again."""


@dataclass(frozen=True)
class Delivery:
    """Which frames the tracker receives.

    Attributes:
        queue: number of frames that wait for the tracker. Where one more comes, the oldest is skipped.
        every_frame: nothing is skipped: the source waits for the tracker.

    Raises:
        InputError: the queue is shorter than one frame, or both are requested.
    """

    queue: int = 1
    every_frame: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.queue, bool) or not isinstance(self.queue, int) or self.queue < 1:
            raise InputError(f"`queue={self.queue}` is not a number of frames; give 1 or more")
        if self.every_frame and self.queue != 1:
            raise InputError("`every_frame` skips nothing, and `queue` says when to skip; give one of them")


@dataclass(frozen=True, eq=False)
class Arrival:
    """A frame as the reader received it.

    Attributes:
        frame: its index and timestamp run on where the source was opened again.
        captured: reading of `time.monotonic()` when the frame was captured.
    """

    frame: NamedFrame
    captured: float


class FrameReader:
    """Reads a source in a thread of its own, from the beginning of a `with` block to its end.

    A file is played at its own speed, unless every frame is requested. A camera or stream sets the pace itself.

    Args:
        source: opened; the reader closes it.
        reopen: opens the same source again. None: a source that breaks ends the reading.
        delivery: which frames are given.
        keep: indices of frames that are never skipped, for example those with prompts.
        first_wait: seconds before the first attempt to open the source again.
    """

    def __init__(
        self,
        source: FrameSource,
        reopen: Callable[[], FrameSource] | None = None,
        delivery: Delivery | None = None,
        keep: Collection[int] = (),
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self._source = source
        self._reopen = reopen
        self._delivery = delivery or Delivery()
        self._keep = frozenset(keep)
        self._first_wait = first_wait
        self._thread = threading.Thread(target=self._run, name="etam-edge-reader", daemon=True)
        self._stop = threading.Event()
        # Guards everything below; notified when one of it changes.
        self._changed = threading.Condition()
        self._waiting: deque[Arrival] = deque()
        self._woken = False
        self._ending: Ending | None = None
        self._failure: BaseException | None = None
        self._fault = ""
        self._received = self._skipped = self._lost = self._damaged = 0
        self._connections = 1

    def __enter__(self) -> FrameReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def skipped(self) -> int:
        """Number of frames that came and were never given."""
        with self._changed:
            return self._skipped

    @property
    def connections(self) -> int:
        """How often the source has been opened."""
        with self._changed:
            return self._connections

    @property
    def fault(self) -> str:
        """Why no frames come while the source is opened again; "" otherwise."""
        with self._changed:
            return self._fault

    @property
    def ending(self) -> Ending | None:
        """How the reading ended, with the counts of all connections; None while it goes on."""
        with self._changed:
            return self._ending

    def take(self, timeout: float) -> Arrival | None:
        """The next frame, each one once. Waits for it at most `timeout` seconds.

        Returns:
            None where no frame came in time, `wake` was called, or the reading has ended (`ending`).

        Raises:
            EtamError: the source could not be read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending or self._woken, timeout)
            self._woken = False
            if self._waiting:
                arrival = self._waiting.popleft()
                self._changed.notify_all()
                return arrival
            if self._failure is not None:
                raise self._failure
            return None

    def wake(self) -> None:
        """End a `take` that waits, from any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reading. Waits until the source has stopped, which its own time limits bound."""
        self._stop.set()
        with self._changed:
            source = self._source
            self._changed.notify_all()
        source.close()
        if self._thread.is_alive():
            self._thread.join()

    # --- in the thread ---

    def _run(self) -> None:
        last: Ending | None = None
        try:
            last = self._read_connections()
        except BaseException as error:
            self._failure = error
        finally:
            self._source.close()
            cause = Cause.CLOSED if self._stop.is_set() or last is None else last.cause
            message = last.message if last is not None and cause is not Cause.CLOSED else ""
            with self._changed:
                self._ending = Ending(cause, self._received, self._lost, self._damaged, message)
                self._changed.notify_all()

    def _read_connections(self) -> Ending | None:
        wait, begin = self._first_wait, time.monotonic()
        last_timestamp = 0.0
        while True:
            # Timestamps of a later connection start again at zero; here they run on.
            origin = max(time.monotonic() - begin, last_timestamp) if self.connections > 1 else 0.0
            frames, last_timestamp = self._read_connection(origin)
            ending = self._source.ending
            if ending is not None:
                with self._changed:
                    self._lost += ending.lost
                    self._damaged += ending.damaged
            if self._reopen is None or self._stop.is_set() or not self._should_reopen(ending):
                return ending
            if frames >= HEALTHY_FRAMES:
                wait = self._first_wait
            self._source.close()
            wait = self._open_again(self._reopen, ending.message if ending else "", wait)
            if self._stop.is_set():
                return ending

    def _should_reopen(self, ending: Ending | None) -> bool:
        """A camera or stream has no end of its own: every end is a break. A file is whole unless it says otherwise."""
        return self._source.is_live or (ending is not None and ending.cause in (Cause.STALLED, Cause.BROKEN))

    def _read_connection(self, origin: float) -> tuple[int, float]:
        """Give the frames of one connection until it ends.

        Args:
            origin: seconds that are added to all timestamps of a later connection.

        Returns:
            number of frames, and the time of the last one.
        """
        source, opened = self._source, time.monotonic()
        paced = not source.is_live and not self._delivery.every_frame
        again = self.connections > 1
        count, timestamp = 0, origin
        for frame in source:
            seconds = count / (source.frames_per_second or DEFAULT_RATE)
            if frame.timestamp is not None:
                seconds = frame.timestamp
            if paced and self._stop.wait(max(0.0, opened + seconds - time.monotonic())):
                break
            if again:
                index = self._received
                frame = replace(frame, index=index, name=f"{index:05d}", timestamp=origin + seconds)
            # A file that is played was captured when its own clock says so.
            captured = opened + seconds if paced else frame.captured
            self._give(Arrival(frame, time.monotonic() if captured is None else captured))
            count, timestamp = count + 1, origin + seconds
            if self._stop.is_set():
                break
        return count, timestamp

    def _give(self, arrival: Arrival) -> None:
        """Hand a frame over to `take`."""
        with self._changed:
            if self._delivery.every_frame:
                self._changed.wait_for(lambda: not self._waiting or self._stop.is_set())
            elif len(self._waiting) >= self._delivery.queue:
                self._skip_oldest()
            self._waiting.append(arrival)
            self._received += 1
            self._changed.notify_all()

    def _skip_oldest(self) -> None:
        for place, arrival in enumerate(self._waiting):
            if arrival.frame.index not in self._keep:
                del self._waiting[place]
                self._skipped += 1
                return

    def _open_again(self, reopen: Callable[[], FrameSource], message: str, wait: float) -> float:
        """Try until the source opens or the reader is closed.

        Args:
            reopen: opens the source.
            message: why the last connection ended.
            wait: seconds before the first attempt.

        Returns:
            seconds to wait where the new connection breaks at once.
        """
        message = message or "the source ended"
        while True:
            with self._changed:
                self._fault = message
                self._changed.notify_all()
            logging.getLogger(__name__).warning("%s; the source is opened again in %g s", message, wait)
            if self._stop.wait(wait):
                return wait
            wait = min(2 * wait, LONGEST_WAIT)
            try:
                source = reopen()
            except EtamError as error:
                message = str(error)
                continue
            with self._changed:
                self._source = source
                self._connections += 1
                self._fault = ""
            return wait
