"""Proposals become tracked objects: once each, with ids that stay, up to a cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image
from typer.testing import CliRunner

from etam_edge import FrameResult, Prompt, Segmenter, Tracker
from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.media.playback import PlayedFrame
from etam_edge.media.proposals import ProposalOptions, ProposingRunner
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes import EverythingOptions, Proposal
from etam_edge.runtimes.rle import runs_of
from etam_edge.spec import Pooling
from etam_edge_testing.small import clip_frame

SHAPE = (40, 60)


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


class StillSession:
    """A session that answers with each object's mask prompt on every frame; objects in `hidden` are not visible."""

    def __init__(self) -> None:
        self.masks: dict[int, np.ndarray] = {}
        self.hidden: set[int] = set()
        self.moved: dict[int, np.ndarray] = {}
        self.index = -1

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.masks)

    def track(self, frame: np.ndarray, prompts: dict[int, Prompt]) -> FrameResult:
        self.index += 1
        self.masks |= self.moved
        self.masks |= {number: prompt.mask for number, prompt in prompts.items() if prompt.mask is not None}
        count = len(self.masks)
        masks = [mask & (number not in self.hidden) for number, mask in self.masks.items()]
        scores = np.array([-1.0 if number in self.hidden else 5.0 for number in self.masks], np.float32)
        return FrameResult(
            self.index,
            self.object_ids,
            np.array(masks, bool).reshape(count, *SHAPE),
            np.zeros((count, 2, 2), np.float32),
            scores,
            np.ones(count, np.float32),
            np.ones(count, np.int32),
        )

    def remove(self, number: int) -> None:
        del self.masks[number]


class Finder:
    """A segmenter that finds masks, of which those whose first pixel is in the region are returned."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks = masks
        self.searches = 0

    def everything(self, image: np.ndarray, options: EverythingOptions) -> list[Proposal]:
        self.searches += 1
        region = np.asarray(options.region)
        found = []
        for place, mask in enumerate(self.masks):
            y, x = np.argwhere(mask)[0]
            if region[y, x]:
                box = (int(x), int(y), int(x) + 1, int(y) + 1)
                found.append(
                    Proposal(SHAPE, runs_of(mask), box, int(mask.sum()), 0.9 - 0.01 * place, 1.0, (0, 0), (0, 0, 1, 1))
                )
        return found


def run(runner: ProposingRunner, index: int, prompts: dict[int, Prompt] | None = None) -> FrameResult:
    return runner(PlayedFrame(index, NamedFrame(str(index), np.zeros((*SHAPE, 3), np.uint8), index), prompts or {}, ()))


def runner_of(session: Any, finder: Any, **options: Any) -> ProposingRunner:
    return ProposingRunner(session, finder, ProposalOptions(**options))


def test_each_object_of_the_first_frame_is_tracked_once() -> None:
    session, finder = StillSession(), Finder([square(2, 2), square(3, 3), square(30, 20)])
    runner = runner_of(session, finder)
    assert run(runner, 0).object_ids == (1, 2), "the second square lies in the first one"
    np.testing.assert_array_equal(run(runner, 1).masks[1], square(30, 20))
    assert (finder.searches, runner.found) == (1, 2)


def test_later_frames_are_searched_where_nothing_is_tracked() -> None:
    session, finder = StillSession(), Finder([square(2, 2)])
    runner = runner_of(session, finder, every=3)
    for index in range(3):
        assert run(runner, index).object_ids == (1,)
    finder.masks.append(square(30, 20))
    assert [run(runner, index).object_ids for index in range(3, 8)] == [(1, 2)] * 5
    assert finder.searches == 3


def test_an_object_that_moved_into_a_proposal_keeps_its_id() -> None:
    session, finder = StillSession(), Finder([square(2, 2)])
    runner = runner_of(session, finder, every=1)
    run(runner, 0)
    # The search of frame 1 sees the object's new place, where the frame before had nothing.
    session.moved, finder.masks = {1: square(30, 20)}, [square(31, 21)]
    result = run(runner, 1)
    assert result.object_ids == session.object_ids == (1,)
    np.testing.assert_array_equal(result.masks[0], square(30, 20))
    assert runner.found == 1


def test_the_cap_ends_what_is_lost_for_longest_and_ids_are_given_once() -> None:
    session, finder = StillSession(), Finder([square(2, 2), square(20, 2), square(40, 2)])
    runner = runner_of(session, finder, every=1, max_objects=3)
    assert run(runner, 0).object_ids == (1, 2, 3)
    session.hidden = {2}
    finder.masks = []
    run(runner, 1)
    session.hidden = {2, 1}
    run(runner, 2)
    finder.masks = [square(30, 25)]
    assert run(runner, 3).object_ids == (1, 3, 4)
    assert runner.ended == 1
    session.hidden, finder.masks = set(), []
    run(runner, 4)
    finder.masks = [square(2, 25)]
    run(runner, 5)
    assert session.object_ids == (1, 3, 4), "nothing is lost, so nothing ends and nothing is added"


def test_prompts_of_the_user_come_first() -> None:
    session, finder = StillSession(), Finder([square(2, 2), square(30, 20)])
    result = run(runner_of(session, finder), 0, {7: Prompt(mask=square(2, 2))})
    assert result.object_ids == (7, 9)


def test_a_region_and_a_number_limit_the_search() -> None:
    finder = Finder([square(2, 2), square(20, 2), square(40, 20)])
    assert run(
        runner_of(StillSession(), finder, everything=EverythingOptions(region=(0, 0, 30, 40))), 0
    ).object_ids == (1, 2)
    assert run(runner_of(StillSession(), finder, everything=EverythingOptions(top_k=1)), 0).object_ids == (1,)
    with pytest.raises(InputError, match="`every=0` is not a whole number"):
        ProposalOptions(every=0)


def test_with_a_model(small_bundle: SmallBundleMaker) -> None:
    tracker = Tracker.load(small_bundle(Pooling.SCORE_BIAS))
    options = EverythingOptions(points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0, max_area=0.5)
    session = tracker.start_session(max_objects=4)
    segmenter = Segmenter(tracker.bundle, tracker.backend)
    runner = ProposingRunner(session, segmenter, ProposalOptions(every=2, max_objects=4, everything=options))
    for index in range(4):
        frame = NamedFrame(str(index), clip_frame(index), index)
        result = runner(PlayedFrame(index, frame, {}, ()))
        assert result.object_ids == session.object_ids
        assert len(result) <= 4
    assert runner.found == len(result) + runner.ended


def test_track_everything(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for index in range(3):
        Image.fromarray(clip_frame(index)).save(clip / f"{index}.png")
    command = ["track", str(small_bundle(Pooling.NONE)), str(clip), "--points-per-side", "3"]
    nothing = CliRunner().invoke(
        app, [*command, "--everything", "--pred-iou-thresh", "1", "--scores", str(tmp_path / "n")]
    )
    assert "no mask passed the thresholds; lower --pred-iou-thresh" in nothing.output
    command += ["--pred-iou-thresh", "0", "--stability-score-thresh", "0"]
    for name, extra in (("first", ["--everything"]), ("every", ["--propose", "2", "--max-objects", "3"])):
        lines = tmp_path / f"{name}.jsonl"
        done = CliRunner().invoke(app, [*command, *extra, "--scores", str(lines), "--max-area", "1"])
        assert done.exit_code == 0, (done.output, done.exception)
        assert len(lines.read_text().splitlines()) == 3
        assert "3 frames, " in done.output
    refused = CliRunner().invoke(app, [*command, "--point", "3,3", "--max-objects", "3"])
    assert "--max-objects and --region belong to --everything or --propose N" in str(refused.exception)
