"""The live loop on a small model: frames, prompts that viewers give, and what ends a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import pytest

from etam_edge import Prompt, Tracker
from etam_edge.errors import InputError, NotFiniteError
from etam_edge.live.commands import AddPrompt, Command, Finish, Play, Remove, Reset, SetLabel, Step
from etam_edge.live.loop import MAX_COMMANDS, MAX_FAILURES, Audience, LiveLoop, LoopOptions, Sink, Snapshot, Status
from etam_edge.live.reader import Delivery, FrameReader
from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan, plan_of
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes import FrameResult
from etam_edge.spec import Pooling
from etam_edge_testing.live_sources import MadeUpCamera
from etam_edge_testing.small import clip_frame

CLICK = Prompt(points=[(64, 64)], labels=[1])


@pytest.fixture(scope="module")
def tracker(small_bundle: Callable[[Pooling], object]) -> Iterator[Tracker]:
    with Tracker.load(small_bundle(Pooling.NONE), threads=1) as tracker:  # type: ignore[arg-type]
        yield tracker


class Spectator(Audience, Sink):
    """Sees and receives everything, and acts after chosen numbers of frames."""

    def __init__(self) -> None:
        self.shown: list[Snapshot] = []
        self.statuses: list[Status] = []
        self.written: list[tuple[NamedFrame, FrameResult]] = []
        self.restarts = 0
        self.actions: dict[int, Callable[[], None]] = {}
        self.answers: list[tuple[Snapshot | None, str]] = []

    def show(self, snapshot: Snapshot) -> None:
        self.shown.append(snapshot)

    def report(self, status: Status) -> None:
        self.statuses.append(status)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        self.written.append((frame, result))
        # Told in the thread of the tracker, before the snapshot of this frame: `after(1)` clicks on the first frame.
        action = self.actions.pop(len(self.written) - 1, None)
        if action is not None:
            action()

    def restart(self) -> None:
        self.restarts += 1

    def answer(self, snapshot: Snapshot | None, error: str) -> None:
        self.answers.append((snapshot, error))


@dataclass
class Run:
    loop: LiveLoop
    reader: FrameReader
    spectator: Spectator
    labels: dict[int, str] = field(default_factory=dict)

    def after(
        self,
        frames: int,
        command: Command | Callable[[], Command],
        snapshot: Callable[[], Snapshot | None] | None = None,
    ) -> None:
        """Submit a command once so many frames have been shown."""

        def submit() -> None:
            given = command if not callable(command) else command()
            seen = snapshot() if snapshot is not None else None
            self.loop.submit(given, seen, self.spectator.answer)

        self.spectator.actions[frames] = submit

    def click(self, frames: int, object_id: int | None, prompt: Prompt = CLICK, on: int = -1) -> None:
        """Prompt an object on a frame that has been shown, by its place among those shown."""
        self.after(
            frames,
            lambda: AddPrompt(self.spectator.shown[on].number, object_id, prompt),
            lambda: self.spectator.shown[on],
        )

    def perform(self) -> None:
        self.loop.run()

    @property
    def errors(self) -> list[str]:
        return [error for _, error in self.spectator.answers]

    @property
    def ids(self) -> list[tuple[int, ...]]:
        return [result.object_ids for _, result in self.spectator.written]


@contextmanager
def running(
    tracker: Tracker,
    frames: int = 12,
    plan: PromptPlan | None = None,
    options: LoopOptions | None = None,
    picture: Callable[[int], np.ndarray] = clip_frame,
    max_objects: int = 3,
) -> Iterator[Run]:
    spectator = Spectator()
    labels: dict[int, str] = {}
    reader = FrameReader(MadeUpCamera(picture, frames), delivery=Delivery(every_frame=True))
    with tracker.start_session(True, max_objects=max_objects) as session, reader:
        loop = LiveLoop(session, reader, plan or PromptPlan([]), labels, spectator, spectator, options or LoopOptions())
        yield Run(loop, reader, spectator, labels)


def test_results_are_those_of_a_session(tracker: Tracker) -> None:
    later = PlannedPrompt(4, 2, Prompt(box=(10, 10, 60, 60)), "here")
    correction = PlannedPrompt(6, 1, Prompt(points=[(20, 20)], labels=[0]), "here", refine=True)
    plan = PromptPlan([PlannedPrompt(0, 1, CLICK, "here"), later, correction])
    with running(tracker, plan=plan) as run:
        run.perform()
    with tracker.start_session(True) as session:
        for index, (frame, result) in enumerate(run.spectator.written):
            expected = session.track(clip_frame(index), plan.prompts(index))
            for object_id, prompt in plan.corrections(index):
                expected = session.refine(object_id, prompt)
            assert (frame.index, result.object_ids) == (index, expected.object_ids)
            np.testing.assert_array_equal(result.mask_logits, expected.mask_logits)
    assert [snapshot.frame.index for snapshot in run.spectator.shown] == list(range(12))
    assert run.loop.report().frames == 12


def test_max_frames_ends_a_run(tracker: Tracker) -> None:
    with running(tracker, plan=plan_of({1: CLICK}), options=LoopOptions(max_frames=5)) as run:
        run.perform()
    assert run.loop.count == 5


def test_stop_ends_a_run_that_waits_for_frames(tracker: Tracker) -> None:
    asked = itertools.count()
    with running(tracker) as run, mock.patch.object(run.reader, "take", return_value=None):
        run.loop.run(lambda: next(asked) == 3)
    assert run.loop.count == 0


def test_a_click_adds_an_object_and_a_second_click_corrects_it(tracker: Tracker) -> None:
    with running(tracker) as run:
        run.click(2, None)
        run.click(4, None, Prompt(box=(10, 10, 50, 50)))
        run.click(6, 1, Prompt(points=[(100, 100)], labels=[0]))
        run.perform()
    assert run.errors == ["", "", ""]
    assert run.ids[:3] == [()] * 3
    assert run.ids[3:5] == [(1,)] * 2
    assert run.ids[5:] == [(1, 2)] * 7
    # The newest frame that was shown when the command was submitted, which is the one before.
    assert json.loads(run.loop.prompts_json()) == [
        {"frame": 1, "object": 1, "points": [[64, 64]], "labels": [1]},
        {"frame": 3, "object": 2, "box": [10, 10, 50, 50]},
        {"frame": 5, "object": 1, "points": [[100, 100]], "labels": [0], "refine": True},
    ]


def test_a_correction_of_the_frame_just_tracked_is_what_refine_gives(tracker: Tracker) -> None:
    correction = Prompt(points=[(100, 100)], labels=[0])
    with running(tracker, frames=3, plan=plan_of({1: CLICK}), options=LoopOptions(controlled=True)) as run:
        run.loop._advance()
        shown = run.spectator.shown[-1]
        run.loop.submit(AddPrompt(shown.number, 1, correction), shown, run.spectator.answer)
        run.loop._obey()
    with tracker.start_session(True) as session:
        session.track(clip_frame(0), {1: CLICK})
        expected = session.refine(1, correction)
    ((answered, error),) = run.spectator.answers
    assert error == ""
    assert answered is run.spectator.shown[-1]
    np.testing.assert_array_equal(answered.result.mask_logits, expected.mask_logits)


def test_a_click_on_an_older_picture_belongs_to_that_picture(tracker: Tracker) -> None:
    """A viewer that froze frame 1 and clicks five frames later: the session sees frame 1 once more, and goes on."""
    with running(tracker) as run:
        run.click(7, None, on=1)
        run.perform()
    ((answered, error),) = run.spectator.answers
    assert error == ""
    assert answered is not None
    assert answered.frame.index == 1
    # The older picture is for the viewer who clicked; others see frames in order, and outputs hold each frame once.
    shown = [snapshot.frame.index for snapshot in run.spectator.shown]
    assert shown == sorted(shown)
    assert [frame.index for frame, _ in run.spectator.written] == list(range(12))
    with tracker.start_session(True) as session:
        for index in range(8):
            session.track(clip_frame(index))
        expected = session.track(clip_frame(1), {1: CLICK})
        np.testing.assert_array_equal(answered.result.mask_logits, expected.mask_logits)
        expected = session.track(clip_frame(8))
    np.testing.assert_array_equal(run.spectator.written[8][1].mask_logits, expected.mask_logits)


def test_objects_are_named_removed_and_reset_and_ids_are_not_used_again(tracker: Tracker) -> None:
    with running(tracker, frames=16) as run:
        run.click(1, None)
        run.click(3, None)
        run.after(5, SetLabel(1, "cup"))
        run.after(6, Remove(2))
        run.after(8, Reset())
        run.click(10, None)
        run.after(12, SetLabel(3, "lid"))
        run.after(13, SetLabel(3, ""))
        run.perform()
    assert run.errors == [""] * 8
    assert run.ids[4:7] == [(1, 2)] * 3
    assert run.ids[7:9] == [(1,)] * 2
    assert run.ids[9:11] == [()] * 2
    assert run.ids[11:] == [(3,)] * 5
    named = [dict(snapshot.labels) for snapshot in run.spectator.shown if snapshot.labels]
    assert named
    assert all(labels in ({1: "cup"}, {3: "lid"}) for labels in named)
    assert run.labels == {}
    # What was removed is not saved.
    assert run.loop.prompts_json().count("object") == 1
    # Frames count on through a reset.
    assert [result.frame_index for _, result in run.spectator.written][-1] >= 15


def test_commands_that_cannot_be_done_are_answered_and_change_nothing(tracker: Tracker) -> None:
    with running(tracker, max_objects=1, plan=plan_of({1: CLICK})) as run:
        run.click(1, None)
        run.click(2, 9)
        run.click(3, 1, Prompt(points=[(500, 1)], labels=[1]))
        run.after(4, Remove(9))
        run.after(5, SetLabel(9, "x"))
        run.after(6, Play(False))
        run.after(7, AddPrompt(99, None, CLICK))
        run.perform()
    told = run.errors
    assert "2 objects are more than this session can hold" in told[0]
    assert told[1] == told[3] == told[4] == "object 9 is not tracked any more"
    assert "lies outside the frame" in told[2]
    assert told[5] == "a live source cannot be paused; freeze the picture instead"
    assert told[6] == "the picture that was clicked on is gone; click again"
    assert run.ids == [(1,)] * 12


def test_an_object_is_not_corrected_on_a_picture_before_it_was_added(tracker: Tracker) -> None:
    with running(tracker) as run:
        run.click(4, None)
        run.click(6, 1, on=1)
        run.perform()
    assert run.errors == ["", "object 1 was added after this picture; unfreeze it to correct the object"]


def test_commands_are_bounded(tracker: Tracker) -> None:
    with running(tracker) as run:
        for _ in range(MAX_COMMANDS + 1):
            run.loop.submit(Reset(), None, run.spectator.answer)
    assert run.errors == ["too many commands wait for the tracker; try again"]


def test_a_controlled_run_begins_paused_and_goes_on_after_the_end(tracker: Tracker) -> None:
    with running(tracker, frames=6, options=LoopOptions(controlled=True)) as run:
        loop, counts = run.loop, []
        steps: list[Command | None] = [
            None,
            None,
            Step(),
            None,
            Play(True),
            None,
            None,
            None,
            None,
            None,
            Play(True),
            None,
            Finish(),
        ]
        for command in steps:
            if command is not None:
                loop.submit(command, None, run.spectator.answer)
            loop._obey()
            assert loop._advance()
            counts.append(loop.count)
        loop.run()
    assert counts == [1, 1, 2, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6]
    assert set(run.errors) == {""}
    assert run.spectator.statuses[-1].ended


def test_frames_of_another_size_end_a_run_with_a_clear_sentence(tracker: Tracker) -> None:
    def growing(number: int) -> np.ndarray:
        return clip_frame(number) if number < 4 else clip_frame(number, 96, 150)

    with running(tracker, plan=plan_of({1: CLICK}), picture=growing) as run:
        with pytest.raises(
            InputError, match="frame 4 is 150 x 96 pixels, and those before were 128 x 128; `on_new_size"
        ):
            run.perform()
        assert run.loop.count == 4


def test_frames_of_another_size_begin_a_new_session_where_that_is_asked_for(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    def growing(number: int) -> np.ndarray:
        return clip_frame(number) if number < 4 else clip_frame(number, 96, 150)

    with running(
        tracker, plan=plan_of({1: CLICK}), picture=growing, options=LoopOptions(restart_on_new_size=True)
    ) as run:
        run.click(6, None, Prompt(points=[(75, 48)], labels=[1]))
        run.perform()
    assert run.spectator.restarts == 1
    assert run.ids[3:5] == [(1,), ()]
    assert run.ids[-1] == (2,)
    assert run.spectator.written[-1][1].masks.shape == (1, 96, 150)
    assert "a new session begins, without the objects" in caplog.text


def test_a_frame_that_cannot_be_tracked_is_left_out_and_many_in_a_row_end_the_run(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tracker, plan=plan_of({1: CLICK})) as run:
        session = run.loop._session
        track, calls = session.track, itertools.count()

        def failing(*arguments: object, **options: object) -> FrameResult:
            if next(calls) in (3, 5):
                raise NotFiniteError("the output is NaN")
            return track(*arguments, **options)  # type: ignore[arg-type]

        with mock.patch.object(session, "track", failing):
            run.perform()
    assert [frame.index for frame, _ in run.spectator.written] == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    assert "frame 00003 is left out: the output is NaN" in caplog.messages

    with (
        running(tracker, frames=MAX_FAILURES + 5, plan=plan_of({1: CLICK})) as run,
        mock.patch.object(run.loop._session, "track", side_effect=NotFiniteError("NaN")),
        pytest.raises(NotFiniteError, match=f"{MAX_FAILURES} frames in a row could not be tracked"),
    ):
        run.perform()
