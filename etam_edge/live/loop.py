"""The live loop: frames of the reader are tracked, written and shown; viewers' commands come between them."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etam_edge.errors import EtamError, InputError, NotFiniteError
from etam_edge.live.commands import AddPrompt, Command, Finish, Play, Remove, Reset, SetLabel, Step
from etam_edge.live.prompt_log import PromptLog
from etam_edge.live.reader import FrameReader
from etam_edge.live.statistics import LiveReport, LiveStatistics, Second
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.types import FrameResult

MAX_FAILURES = 30
"""Frames in a row whose outputs are not finite, after which the run ends."""
MAX_COMMANDS = 100
"""Commands that wait for the tracker; more are refused."""
IDLE_SECONDS = 0.1
"""The loop looks at least this often whether it has been stopped."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One frame with its result, as viewers see it.

    Attributes:
        number: counts the snapshots of a run.
        frame: of the source.
        result: of the frame, for the objects that are tracked.
        labels: names of objects, by id.
    """

    number: int
    frame: NamedFrame
    result: FrameResult
    labels: Mapping[int, str]


@dataclass(frozen=True)
class Status:
    """State of a run, for viewers.

    Attributes:
        history: of the last two minutes, second by second.
        report: figures since the run began.
        fault: why no frames come, or "".
        playing: whether frames are taken from the source.
        ended: whether the source has ended.
        prompts: number of prompts that can be saved.
    """

    history: Sequence[Second]
    report: LiveReport
    fault: str
    playing: bool
    ended: bool
    prompts: int


Answer = Callable[[Snapshot | None, str], None]
"""Told how a command went: the snapshot that it led to, or None, and what was wrong, or ""."""


class Audience:
    """Receives what a run shows. This one shows it to nobody."""

    def show(self, snapshot: Snapshot) -> None:
        """A frame has been tracked, or its objects have changed. Returns at once."""

    def report(self, status: Status) -> None:
        """A second has passed, or the state has changed. Returns at once."""


class Sink:
    """Receives every tracked frame, in the thread of the tracker. This one does nothing with it."""

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """
        Raises:
            InputError: the frame could not be written.
        """

    def idle(self) -> None:
        """Called while no frame comes, at least every IDLE_SECONDS."""

    def timings(self, age: float, frame_time: float, skipped: int) -> None:
        """Told after each frame.

        Args:
            age: seconds from its capture to its masks.
            frame_time: seconds that the tracker took.
            skipped: number of frames skipped since the run began.
        """

    def restart(self) -> None:
        """Frames have another size from now on."""


@dataclass(frozen=True)
class LoopOptions:
    """How a run behaves.

    Attributes:
        max_frames: number of frames to track, or None.
        restart_on_new_size: whether frames of another size begin a new session; otherwise they are an error.
        controlled: whether viewers control the source: it begins paused after its first frame, and its end does not end
            the run.
        report_seconds: time between two reports.
    """

    max_frames: int | None = None
    restart_on_new_size: bool = False
    controlled: bool = False
    report_seconds: float = 5.0


class LiveLoop:
    """Tracks what a reader gives until the source ends, `stop` says so, or enough frames have been tracked.

    Args:
        session: new.
        reader: started.
        plan: prompts, by index of the frame in the source.
        labels: names of objects, by id. Viewers' names are entered here.
        sink: receives every tracked frame.
        audience: receives what is shown.
        options: how the run behaves.
        on_report: receives the figures of every stretch of `report_seconds`.
    """

    def __init__(
        self,
        session: Session,
        reader: FrameReader,
        plan: PromptPlan,
        labels: dict[int, str],
        sink: Sink,
        audience: Audience,
        options: LoopOptions,
        on_report: Callable[[LiveReport], None] | None = None,
    ) -> None:
        self._session = session
        self._reader = reader
        self._plan = plan
        self._sink = sink
        self._audience = audience
        self._options = options
        self._on_report = on_report
        self._commands: queue.Queue[tuple[Command, Snapshot | None, Answer]] = queue.Queue(MAX_COMMANDS)
        self._statistics = LiveStatistics()
        self._reported = time.monotonic()
        self._snapshot: Snapshot | None = None
        # The frame that the session tracked last: of the newest snapshot, or one that was clicked on.
        self._tracked: NamedFrame | None = None
        self._count = self._snapshots = self._failures = 0
        self._playing, self._steps, self._finished = not options.controlled, 1, False
        self._fault = ""
        self._labels = labels
        self._born: dict[int, int] = {}
        self._next_id = max((*plan.object_ids, 0)) + 1
        self._prompts = PromptLog(plan)

    def prompts_json(self) -> str:
        """All prompts of the objects that are tracked, as `etam-edge track --prompts` reads them. From any thread."""
        return self._prompts.to_json(dict(self._labels))

    @property
    def count(self) -> int:
        """Number of frames that were tracked and written."""
        return self._count

    def submit(self, command: Command, snapshot: Snapshot | None, answer: Answer) -> None:
        """Ask for something, from any thread. It is carried out before the next frame.

        Args:
            command: what is asked for.
            snapshot: that was clicked on, for a prompt.
            answer: called in the thread of the tracker.
        """
        try:
            self._commands.put_nowait((command, snapshot, answer))
        except queue.Full:
            answer(None, "too many commands wait for the tracker; try again")
        self._reader.wake()

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Track until the end.

        Args:
            stop: asked at least every IDLE_SECONDS whether to end.

        Raises:
            EtamError: the source cannot be read, a prompt cannot be used, a frame has another size, or an output cannot
                be written.
        """
        while not (stop() or self._finished or self._count == self._options.max_frames):
            self._obey()
            if not self._advance():
                break
            self._tell()

    def report(self) -> LiveReport:
        """The figures of the whole run until now."""
        return self._statistics.whole(self._reader.skipped, self._reader.connections)

    # --- frames ---

    def _advance(self) -> bool:
        """Track the next frame, if one comes soon and one is wanted. False after the last one."""
        if not (self._playing or self._steps):
            self._sink.idle()
            self._wait_for_command()
            return True
        arrival = self._reader.take(IDLE_SECONDS)
        if arrival is None:
            self._sink.idle()
            if self._reader.ending is None:
                return True
            self._playing, self._steps = False, 0
            return self._options.controlled
        begin = time.monotonic()
        result = self._track(arrival.frame)
        if result is None:
            return True
        end = time.monotonic()
        self._statistics.add(end - arrival.captured, end - begin)
        self._sink.write(arrival.frame, result)
        self._sink.timings(end - arrival.captured, end - begin, self._reader.skipped)
        self._count += 1
        self._steps = max(0, self._steps - 1)
        self._show(arrival.frame, result)
        return True

    def _wait_for_command(self) -> None:
        """`take` would consume a frame, so a paused run waits here; `submit` puts into the same queue."""
        try:
            first = self._commands.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return
        self._carry_out(*first)

    def _track(self, frame: NamedFrame) -> FrameResult | None:
        """Track a frame with what is planned for it; None where it had to be left out."""
        self._check_size(frame)
        prompts = self._plan.prompts(frame.index)
        try:
            result = self._session.track(frame.pixels, prompts=prompts)
            for object_id, prompt in self._plan.corrections(frame.index):
                result = self._session.refine(object_id, prompt)
        except NotFiniteError as error:
            # The session is unchanged. One such frame must not end a run of days.
            self._failures += 1
            logging.getLogger(__name__).warning("frame %s is left out: %s", frame.name, error)
            if self._failures == MAX_FAILURES:
                raise NotFiniteError(
                    f"{MAX_FAILURES} frames in a row could not be tracked; the last one: {error}"
                ) from error
            return None
        self._failures = 0
        self._tracked = frame
        for object_id in prompts:
            self._born.setdefault(object_id, frame.index)
        return result

    def _check_size(self, frame: NamedFrame) -> None:
        """
        Raises:
            InputError: the frame has another size than the one before, and no new session may begin.
        """
        if self._tracked is None or frame.pixels.shape == self._tracked.pixels.shape:
            return
        (height, width), (old_height, old_width) = frame.pixels.shape[:2], self._tracked.pixels.shape[:2]
        change = f"frame {frame.index} is {width} x {height} pixels, and those before were {old_width} x {old_height}"
        if not self._options.restart_on_new_size:
            raise InputError(f"{change}; `on_new_size=restart` begins a new session there, without the objects")
        logging.getLogger(__name__).warning("%s; a new session begins, without the objects", change)
        self._forget(self._session.object_ids)
        self._session.reset()
        self._sink.restart()
        # Prompts that are planned for later frames belong to the size before.
        self._plan = PromptPlan([])
        self._tracked = self._snapshot = None

    def _show(self, frame: NamedFrame, result: FrameResult) -> Snapshot:
        self._snapshot = self._new_snapshot(frame, result)
        self._audience.show(self._snapshot)
        return self._snapshot

    def _new_snapshot(self, frame: NamedFrame, result: FrameResult) -> Snapshot:
        self._snapshots += 1
        return Snapshot(self._snapshots, frame, result, dict(self._labels))

    def _tell(self) -> None:
        """Report to the audience every second and where the state changes, and to `on_report` every few seconds."""
        skipped, fault = self._reader.skipped, self._reader.fault
        if self._statistics.tick(skipped) or fault != self._fault:
            self._fault = fault
            self._report_status()
        if time.monotonic() - self._reported >= self._options.report_seconds:
            self._reported = time.monotonic()
            report = self._statistics.recent(skipped, self._reader.connections)
            if self._on_report is not None:
                self._on_report(report)

    def _report_status(self) -> None:
        ended = self._reader.ending is not None
        self._audience.report(
            Status(
                self._statistics.history, self.report(), self._reader.fault, self._playing, ended, len(self._prompts)
            )
        )

    # --- commands ---

    def _obey(self) -> None:
        """Carry out the commands that wait."""
        while True:
            try:
                waiting = self._commands.get_nowait()
            except queue.Empty:
                return
            self._carry_out(*waiting)

    def _carry_out(self, command: Command, snapshot: Snapshot | None, answer: Answer) -> None:
        try:
            shown = self._do(command, snapshot)
        except EtamError as error:
            # What a viewer asked for could not be done. The session is unchanged and goes on.
            answer(None, str(error))
            return
        answer(shown, "")
        self._report_status()

    def _do(self, command: Command, snapshot: Snapshot | None) -> Snapshot | None:
        """
        Raises:
            EtamError: it cannot be done.
        """
        if isinstance(command, AddPrompt):
            return self._prompt(command, snapshot)
        if isinstance(command, Remove):
            self._check_known(command.object_id)
            self._session.remove(command.object_id)
            self._forget([command.object_id])
        elif isinstance(command, Reset):
            gone = self._session.object_ids
            # Not `Session.reset`, which would count the frames of a run that goes on from zero.
            for object_id in gone:
                self._session.remove(object_id)
            self._forget(gone)
        elif isinstance(command, SetLabel):
            self._check_known(command.object_id)
            self._labels[command.object_id] = command.label
            if not command.label:
                del self._labels[command.object_id]
        else:
            self._control(command)
            return None
        if self._snapshot is None:
            return None
        return self._show(self._snapshot.frame, _of_objects(self._snapshot.result, self._session.object_ids))

    def _control(self, command: Play | Step | Finish) -> None:
        if not self._options.controlled:
            raise InputError("a live source cannot be paused; freeze the picture instead")
        if isinstance(command, Finish):
            self._finished = True
        elif isinstance(command, Play):
            self._playing, self._steps = command.on, 0
        else:
            self._playing, self._steps = False, 1

    def _prompt(self, command: AddPrompt, snapshot: Snapshot | None) -> Snapshot:
        """Add or correct an object on the frame that was clicked on.

        A viewer sees a frame some time after it was tracked, and longer where it freezes the picture. The frame that it
        clicked on is then tracked once more, so that the prompt and its picture belong together; memory attention finds
        the object in the newest frame again.
        """
        if snapshot is None:
            raise InputError("the picture that was clicked on is gone; click again")
        frame, object_id, prompt = snapshot.frame, command.object_id, command.prompt
        if object_id is None:
            result = self._session.track(frame.pixels, prompts={self._next_id: prompt})
            object_id, self._next_id = self._next_id, self._next_id + 1
            self._born[object_id] = frame.index
        else:
            self._check_known(object_id)
            if frame.index < self._born.get(object_id, 0):
                raise InputError(f"object {object_id} was added after this picture; unfreeze it to correct the object")
            if frame is not self._tracked:
                self._session.track(frame.pixels)
                self._tracked = frame
            result = self._session.refine(object_id, prompt)
        self._tracked = frame
        self._prompts.add(frame.index, object_id, prompt, refine=command.object_id is not None)
        if self._snapshot is None or frame.index >= self._snapshot.frame.index:
            return self._show(frame, result)
        # An older picture is for the viewer who clicked on it.
        return self._new_snapshot(frame, result)

    def _check_known(self, object_id: int) -> None:
        """
        Raises:
            InputError: the object is not tracked.
        """
        if object_id not in self._session.object_ids:
            raise InputError(f"object {object_id} is not tracked any more")

    def _forget(self, object_ids: Sequence[int]) -> None:
        self._prompts.remove(object_ids)
        for object_id in object_ids:
            self._labels.pop(object_id, None)
            self._born.pop(object_id, None)


def _of_objects(result: FrameResult, object_ids: Sequence[int]) -> FrameResult:
    """The part of a result that is about these objects."""
    rows = np.array([row for row, object_id in enumerate(result.object_ids) if object_id in object_ids], dtype=int)
    arrays = {
        name: getattr(result, name)[rows] for name in ("masks", "mask_logits", "object_scores", "ious", "mask_choices")
    }
    return replace(result, object_ids=tuple(result.object_ids[row] for row in rows), **arrays)
