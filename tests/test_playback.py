"""The playback loop: any source, prompts on any frame, lazily, and sources closed at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image

from etam_edge import FrameResult, Prompt, Tracker, follow
from etam_edge.errors import InputError
from etam_edge.media.playback import PlayedFrame, open_frames, play
from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan, plan_of
from etam_edge.media.sources import NamedFrame
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
BOX = Prompt(box=(20, 30, 90, 100))
CORRECTION = Prompt(points=[(100, 20)], labels=[0])
FRAMES = 6


@pytest.fixture
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), runtime="onnxruntime", provider="cpu", threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "clip"
    path.mkdir()
    for index in range(FRAMES):
        Image.fromarray(clip_frame(index)).save(path / f"{index}.png")
    return path


def frames() -> Iterator[np.ndarray]:
    return (clip_frame(index) for index in range(FRAMES))


def expected(tracker: Tracker, prompts: dict[int, dict[int, Prompt]]) -> list[FrameResult]:
    session = tracker.start_session()
    return [session.track(clip_frame(index), prompts.get(index)) for index in range(FRAMES)]


def same(results: list[FrameResult], others: list[FrameResult]) -> None:
    assert len(results) == len(others) > 0
    for result, other in zip(results, others, strict=True):
        assert (result.frame_index, result.object_ids) == (other.frame_index, other.object_ids)
        np.testing.assert_array_equal(result.mask_logits, other.mask_logits)


def test_every_kind_of_source_gives_the_same_results(tracker: Tracker, folder: Path) -> None:
    wanted = expected(tracker, {0: {1: CLICK}})
    images = [Image.fromarray(frame) for frame in frames()]
    array = np.stack(list(frames()))
    for source in (str(folder), folder, frames(), list(frames()), images, array, open_frames(folder)):
        same(list(follow(tracker.start_session(), source, prompts={1: CLICK})), wanted)


def test_video_is_a_source(tracker: Tracker, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (128, 128))
    for frame in frames():
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    results = list(follow(tracker.start_session(), path, prompts={1: CLICK}))
    assert [result.frame_index for result in results] == list(range(FRAMES))
    assert results[-1].masks.shape == (1, 128, 128)


def test_prompts_on_later_frames(tracker: Tracker) -> None:
    prompts = {0: {1: CLICK}, 3: {1: BOX, 2: CLICK}}
    same(list(follow(tracker.start_session(), frames(), prompts=prompts)), expected(tracker, prompts))


def test_without_prompts_a_session_goes_on_with_its_objects(tracker: Tracker) -> None:
    session = tracker.start_session()
    source = frames()
    first = list(follow(session, source, prompts={1: CLICK}, max_frames=2))
    # The caller's own iterator is left open.
    rest = list(follow(session, source))
    assert len(first) == 2
    same(rest, expected(tracker, {0: {1: CLICK}})[2:])


def test_corrections_between_results(tracker: Tracker) -> None:
    session, other = tracker.start_session(), tracker.start_session()
    for result in follow(session, frames(), prompts={1: CLICK}):
        plain = other.track(clip_frame(result.frame_index), {1: CLICK} if result.frame_index == 0 else None)
        np.testing.assert_array_equal(result.mask_logits, plain.mask_logits)
        if result.frame_index == 2:
            session.refine(1, CORRECTION)
            other.refine(1, CORRECTION)
    assert session.frame_index == FRAMES - 1


def test_plans_hold_corrections(tracker: Tracker) -> None:
    plan = PromptPlan([PlannedPrompt(0, 1, CLICK, "here"), PlannedPrompt(2, 1, CORRECTION, "here", refine=True)])
    results = list(follow(tracker.start_session(), frames(), plan))
    session = tracker.start_session()
    wanted = []
    for index, frame in enumerate(frames()):
        wanted.append(session.track(frame, {1: CLICK} if index == 0 else None))
        if index == 2:
            wanted[-1] = session.refine(1, CORRECTION)
    same(results, wanted)


class Source:
    """Frames with a note of what is read, as a source of this package."""

    stem, path, frames_per_second, length, frame_shape = "noted", None, None, FRAMES, (128, 128)

    def __init__(self) -> None:
        self.read: list[int] = []
        self.closed = False

    def count(self) -> int:
        return FRAMES

    def __iter__(self) -> Iterator[NamedFrame]:
        try:
            for index in range(FRAMES):
                self.read.append(index)
                yield NamedFrame(str(index), clip_frame(index))
        finally:
            self.closed = True


def test_frames_are_read_lazily_and_the_source_is_closed(tracker: Tracker) -> None:
    source = Source()
    results = follow(tracker.start_session(), source, prompts={1: CLICK})
    assert source.read == []
    next(results)
    assert source.read == [0]
    results.close()  # type: ignore[attr-defined]
    assert source.closed
    source = Source()
    assert len(list(follow(tracker.start_session(), source, prompts={1: CLICK}, max_frames=2))) == 2
    assert source.read == [0, 1], "a camera would be read once too often"
    assert source.closed


def test_a_failing_frame_closes_the_source_and_leaves_the_session(tracker: Tracker) -> None:
    class Shrinking(Source):
        def __iter__(self) -> Iterator[NamedFrame]:
            for frame in super().__iter__():
                yield NamedFrame(frame.name, frame.pixels[: 128 if frame.name != "2" else 100])

    source, session = Shrinking(), tracker.start_session()
    with pytest.raises(InputError, match="frame 2 is 128 x 100 pixels"):
        list(follow(session, source, prompts={1: CLICK}))
    assert session.frame_index == 1
    assert session.track(clip_frame(2)).frame_index == 2


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "a list": ([CLICK], "prompts are a list"),
    "a mixture": ({0: {1: CLICK}, 1: CLICK}, "mix objects and frames"),
    "a dictionary in place of a prompt": ({1: {"points": [(1, 2)]}}, "where a Prompt is expected"),
    "a negative frame": ({-1: {1: CLICK}}, "frame index -1"),
    "a name for a frame": ({"first": {1: CLICK}}, "frame index 'first'"),
    "a name for an object": ({"ball": CLICK}, "object id 'ball' is not a whole number"),
    "too late": ({FRAMES: {1: CLICK}}, f"frame {FRAMES}, and frames run from 0 to {FRAMES - 1}"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts_are_refused_before_anything_is_read(name: str, tracker: Tracker) -> None:
    prompts, sentence = BAD_PROMPTS[name]
    source = Source()
    with pytest.raises(InputError, match=sentence):
        follow(tracker.start_session(), source, prompts=prompts)
    assert source.read == []


def test_bad_sources_are_refused_at_the_call(tracker: Tracker, tmp_path: Path) -> None:
    session = tracker.start_session()
    for source, sentence in (
        (tmp_path / "missing.mp4", "there is nothing at"),
        (None, "a NoneType is not a source"),
        (True, "a bool is not a source"),
        (1.5, "a float is not a source"),
    ):
        with pytest.raises(InputError, match=sentence):
            follow(session, source, prompts={1: CLICK})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="frame 0 of the source has type float64"):
        list(follow(session, [np.zeros((8, 8, 3))]))
    with pytest.raises(InputError, match="max_frames must be at least 1"):
        follow(session, frames(), max_frames=0)
    with pytest.raises(InputError, match="a prompt is for frame 3, and frames run from 0 to 1"):
        follow(session, frames(), prompts={3: {1: CLICK}}, max_frames=2)


def test_a_prompt_that_was_never_reached_is_logged(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        results = list(follow(tracker.start_session(), frames(), prompts={0: {1: CLICK}, 50: {2: BOX}}))
    assert len(results) == FRAMES
    assert "ended after 6 frames, and the prompt for frame 50 was never reached" in caplog.text


def test_runners_are_interleaved_and_their_order_alternates() -> None:
    calls: list[tuple[int, str]] = []

    def runner(name: str) -> Any:
        def run(played: PlayedFrame[NamedFrame]) -> str:
            calls.append((played.index, name))
            return f"{name}{played.index}"

        return run

    outputs = [output for _, output in play(Source(), plan_of({1: CLICK}), [runner(name) for name in "abc"], 3)]
    assert outputs == [["a0", "b0", "c0"], ["a1", "b1", "c1"], ["a2", "b2", "c2"]]
    assert calls == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a"), (2, "a"), (2, "b"), (2, "c")]
