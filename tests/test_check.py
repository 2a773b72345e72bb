"""The accuracy-drop check on answers that are written by hand: what counts, what is averaged, and what passes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etam_edge.errors import InputError, NotFiniteError
from etam_edge.evaluation.check import check
from etam_edge.evaluation.clips import count_frames, is_judged
from etam_edge.evaluation.metrics import boundary_measure, region_similarity
from etam_edge.evaluation.runs import NO_CHOICE, Run, run, run_both
from etam_edge.evaluation.summary import Comparison, compare
from etam_edge.evaluation.thresholds import Thresholds, choose_thresholds, judge
from etam_edge.media.datasets import Clip, find_clips
from etam_edge.runtimes import FrameResult, Prompt, Tracker
from etam_edge_testing.davis import DISC, HEIGHT, SQUARE, VOID, WIDTH, labels, write_clip

pytest.importorskip("cv2")

FRAMES = 8
Masks = Callable[[int, int], np.ndarray]
"""The mask of an object on a frame, bool (HEIGHT, WIDTH)."""


def true_mask(index: int, number: int) -> np.ndarray:
    return labels(index) == number


def shifted(by: int) -> Masks:
    """The ground-truth mask, moved to the right."""
    return lambda index, number: np.roll(true_mask(index, number), by, axis=1)


@dataclass
class Scripted(Tracker):
    """A tracker that answers what it is told.

    Attributes:
        masks: its answers.
        not_finite: frames on which it answers NaN.
        scores, choices: by frame and object, where they are not 1.
        order: who was asked on which frame, shared by several.
        name: in that order.
    """

    masks: Masks = true_mask
    not_finite: Sequence[int] = ()
    scores: Mapping[tuple[int, int], float] | None = None
    choices: Mapping[tuple[int, int], int] | None = None
    order: list[tuple[str, int]] | None = None
    name: str = "scripted"

    @property
    def runtime(self) -> str:
        return self.name

    def start_session(self, *_: Any, **options: Any) -> Any:
        return ScriptedSession(self, options["max_objects"])


class ScriptedSession:
    def __init__(self, script: Scripted, max_objects: int) -> None:
        self.script, self.max_objects = script, max_objects
        self.index = -1
        self.object_ids: tuple[int, ...] = ()
        self.prompts: dict[int, list[int]] = {}

    def track(self, pixels: np.ndarray, prompts: Mapping[int, Prompt]) -> FrameResult:
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        self.index += 1
        if self.script.order is not None:
            self.script.order.append((self.script.name, self.index))
        if self.index in self.script.not_finite:
            raise NotFiniteError("NaN")
        for number in prompts:
            if number not in self.object_ids:
                # Newest first: rows are not in the order of ids.
                self.object_ids = (number, *self.object_ids)
        assert len(self.object_ids) <= self.max_objects
        return self.result()

    def refine(self, number: int, prompt: Prompt) -> FrameResult:
        assert number in self.object_ids
        return self.result()

    def result(self) -> FrameResult:
        def of(table: Mapping[tuple[int, int], float] | None) -> list[float]:
            return [(table or {}).get((self.index, number), 1) for number in self.object_ids]

        masks = [self.script.masks(self.index, number) for number in self.object_ids]
        return FrameResult(
            frame_index=self.index,
            object_ids=self.object_ids,
            masks=np.array(masks, dtype=bool).reshape(-1, HEIGHT, WIDTH),
            mask_logits=np.zeros((len(masks), 1, 1), dtype=np.float32),
            object_scores=np.array(of(self.script.scores), dtype=np.float32),
            ious=np.ones(len(masks), dtype=np.float32),
            mask_choices=np.array(of(self.script.choices), dtype=np.int32),
        )


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    write_clip(tmp_path / "clips", "one", FRAMES)
    return find_clips(tmp_path / "clips")[0]


def compared(candidate: Tracker, reference: Tracker, *clips: Clip) -> Comparison:
    return check(candidate, reference, clips).comparison


def test_a_tracker_against_itself_loses_nothing(clip: Clip) -> None:
    comparison = compared(Scripted(shifted(3)), Scripted(shifted(3)), clip)
    overall = comparison.overall
    assert overall.drop is not None
    assert (overall.drop.j, overall.drop.f, overall.drop.j_and_f) == (0, 0, 0)
    assert overall.mean_iou == overall.worst.iou == overall.first_third == overall.last_third == 1
    assert (overall.score_flips.count, overall.choice_flips.count) == (0, 0)
    assert comparison.drift == [1] * (FRAMES - 1)
    verdict = judge(comparison, Thresholds(0, 1))
    assert verdict.passed
    assert verdict.sentence.startswith("passed: J&F drops by 0.000 points")


def test_j_and_f_are_averaged_as_davis_does(tmp_path: Path) -> None:
    """Frames after an object's prompt, without the clip's last; over frames, then over objects."""
    # The square comes on frame 2.
    late = {index: np.where(labels(index) == SQUARE, 0, labels(index)).astype(np.uint8) for index in (0, 1)}
    write_clip(tmp_path / "clips", "late", FRAMES, annotations=late)
    [clip] = find_clips(tmp_path / "clips")

    def masks(index: int, number: int) -> np.ndarray:
        return np.roll(true_mask(index, number), index, axis=1)

    comparison = compared(Scripted(masks), Scripted(), clip)
    expected = {}
    for number, first in ((DISC, 0), (SQUARE, 2)):
        pairs = [(masks(index, number), true_mask(index, number)) for index in range(first + 1, FRAMES - 1)]
        expected[number] = [
            np.mean([measure(mask, true) for mask, true in pairs]) for measure in (region_similarity, boundary_measure)
        ]
        [one] = [one for one in comparison.clips[0].objects if one.object_id == number]
        assert one.prompt_frame == first
        assert one.figures.candidate is not None
        assert [one.figures.candidate.j, one.figures.candidate.f] == pytest.approx(expected[number], abs=1e-12)
        # The square is 34 pixels wide: moved by k it shares 34 - k of 34 + k columns.
        if number == SQUARE:
            assert one.figures.candidate.j == pytest.approx(np.mean([(34 - k) / (34 + k) for k in (3, 4, 5, 6)]))
            assert one.candidate_j == pytest.approx([(34 - k) / (34 + k) for k in (3, 4, 5, 6, 7)])
    j, f = np.mean([expected[DISC], expected[SQUARE]], axis=0)
    drop = comparison.overall.drop
    assert drop is not None
    assert drop.j == pytest.approx(100 * (1 - j))
    assert drop.f == pytest.approx(100 * (1 - f))
    assert drop.j_and_f == pytest.approx(100 * (1 - (j + f) / 2))
    # Against the reference every frame counts, the last one included.
    overall = comparison.overall
    assert (overall.worst.object_id, overall.worst.frame) == (DISC, FRAMES - 1)
    assert overall.worst.iou == region_similarity(masks(FRAMES - 1, DISC), true_mask(FRAMES - 1, DISC))
    assert comparison.clips[0].objects[1].figures.worst.iou == pytest.approx(27 / 41)
    assert len(comparison.drift) == FRAMES - 1
    assert comparison.drift[0] == pytest.approx(
        np.mean([region_similarity(masks(1, DISC), true_mask(1, DISC)), 31 / 37])
    )


def test_void_pixels_do_not_count(tmp_path: Path) -> None:
    annotations = {}
    for index in range(FRAMES):
        annotations[index] = labels(index)
        annotations[index][50:60][annotations[index][50:60] == 0] = VOID
    write_clip(tmp_path / "clips", "void", FRAMES, annotations=annotations)
    [clip] = find_clips(tmp_path / "clips")
    assert clip.plan.object_ids == [DISC, SQUARE]

    def masks(index: int, number: int) -> np.ndarray:
        return true_mask(index, number) | (annotations[index] == VOID)

    overall = compared(Scripted(masks), Scripted(), clip).overall
    assert overall.candidate is not None
    assert overall.candidate.j == overall.candidate.f == 1
    assert overall.worst.iou < 1


def test_frames_without_annotation_are_left_out(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips", "sparse", FRAMES, annotated=[0, 4, FRAMES - 1])
    [clip] = find_clips(tmp_path / "clips")
    comparison = compared(Scripted(lambda i, n: shifted(4 if i == 4 else 20)(i, n)), Scripted(), clip)
    [disc, square] = comparison.clips[0].objects
    assert square.figures.candidate is not None
    assert square.figures.candidate.j == pytest.approx(30 / 38)
    assert [value is None for value in square.candidate_j] == [True, True, True, False, True, True, False]
    assert disc.figures.judged_objects == 1


def test_clips_without_true_masks_are_judged_by_the_reference_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "clips", "bare", FRAMES, annotated=[0])
    write_clip(tmp_path / "clips", "full", FRAMES)
    write_clip(tmp_path / "clips", "last", FRAMES, annotated=[0, FRAMES - 1])
    clips = find_clips(tmp_path / "clips")
    assert [is_judged(clip, FRAMES) for clip in clips] == [False, True, False]
    comparison = compared(Scripted(shifted(2)), Scripted(), *clips)
    assert comparison.judged_clips == 1
    assert (comparison.overall.objects, comparison.overall.judged_objects) == (6, 2)
    assert [clip.figures.drop is None for clip in comparison.clips] == [True, False, True]
    assert comparison.overall.drop == comparison.clips[1].figures.drop
    # Drops are not comparable with clips that have none.
    assert comparison.worst_fifth.by == "mean_iou"
    # A clip that is cut short loses its later annotations.
    assert not is_judged(clips[1], 2)


def test_a_frame_of_nan_is_an_empty_one_and_the_run_goes_on(clip: Clip) -> None:
    ours, theirs = run_both(Scripted(not_finite=[3, 5]), Scripted(), clip)
    assert ours.not_finite == (3, 5)
    assert [bool(ours.masks(index).any()) for index in range(FRAMES)] == [i not in (3, 5) for i in range(FRAMES)]
    assert np.isnan(ours.scores[3]).all()
    assert (ours.choices[3] == NO_CHOICE).all()
    assert np.isnan(ours.milliseconds[[0, 3, 5]]).all()
    assert np.isfinite(ours.milliseconds[[1, 2, 4, 6, 7]]).all()
    comparison = compare([ours], [theirs])
    assert comparison.candidate_not_finite == 2
    assert comparison.overall.worst.iou == 0
    assert comparison.overall.worst.frame == 3
    assert (comparison.overall.score_flips.count, comparison.overall.score_flips.of) == (0, 10)
    verdict = judge(comparison, Thresholds(100, 0))
    assert not verdict.passed
    assert verdict.reasons == ["the candidate's outputs were NaN or infinite on 2 frames"]


def test_nan_of_the_reference_fails_too(clip: Clip) -> None:
    """A reference without masks would make every candidate look better than it."""
    comparison = compared(Scripted(), Scripted(not_finite=[2]), clip)
    assert comparison.overall.drop is not None
    assert comparison.overall.drop.j_and_f < 0
    verdict = judge(comparison, Thresholds(1.0))
    assert verdict.sentence == "failed: the reference's outputs were NaN or infinite on 1 frame"


def test_an_object_whose_prompt_gave_nan_never_starts(tmp_path: Path) -> None:
    write_clip(tmp_path, "clip", FRAMES)
    prompts = tmp_path / "prompts.json"
    entries = [
        {"frame": 0, "object": 7, "points": [[20, 20]], "labels": [1]},
        {"frame": 1, "object": 3, "points": [[60, 60]], "labels": [1]},
        {"frame": 2, "object": 7, "points": [[22, 20]], "labels": [0], "refine": True},
    ]
    prompts.write_text(json.dumps(entries))
    [clip] = find_clips(tmp_path / "JPEGImages" / "clip", prompts)
    whole = np.ones((HEIGHT, WIDTH), dtype=bool)
    ours = run(Scripted(lambda *_: whole, not_finite=[0]), clip)
    assert ours.object_ids == (3, 7)
    assert ours.prompt_frames == (1, 0)
    assert [ours.masks(index).any(axis=(1, 2)).tolist() for index in range(3)] == [
        [False, False],
        [True, False],
        [True, False],
    ]
    assert np.isnan(ours.scores[:, 1]).all()
    comparison = compare([ours], [run(Scripted(lambda *_: whole), clip)])
    assert comparison.overall.worst.object_id == 7
    assert [one.figures.mean_iou for one in comparison.clips[0].objects] == [1, 0]


def test_flips_and_empty_masks_are_counted(clip: Clip) -> None:
    gone = {(4, DISC): -2.0, (5, DISC): 0.0, (5, SQUARE): -1.0}

    def masks(index: int, number: int) -> np.ndarray:
        return true_mask(index, number) & (number != DISC or index not in (4, 5))

    ours = Scripted(masks, scores=gone, choices={(0, DISC): 3, (2, DISC): 2, (3, DISC): 3})
    theirs = Scripted(masks, scores={(5, SQUARE): -1.0, (6, SQUARE): 0.0}, choices={(3, DISC): 3})
    overall = compared(ours, theirs, clip).overall
    # (4, disc), (5, disc), (6, square); the prompted frame does not count.
    assert (overall.score_flips.count, overall.score_flips.of) == (3, 2 * (FRAMES - 1))
    assert (overall.choice_flips.count, overall.choice_flips.of) == (1, 2 * (FRAMES - 1))
    assert (overall.both_empty.count, overall.both_empty.of) == (2, 2 * (FRAMES - 1))
    assert overall.worst.iou == 1


def test_drift_and_the_worst_fifth(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    for name in names:
        write_clip(tmp_path / "clips", name, FRAMES)
    clips = find_clips(tmp_path / "clips")

    def runs(shift: Mapping[str, int]) -> list[Run]:
        return [run(Scripted(lambda i, n, by=shift[clip.name]: shifted(by * i)(i, n)), clip) for clip in clips]

    shift = dict.fromkeys(names, 0) | {"c": 1, "e": 2}
    comparison = compare(runs(shift), runs(dict.fromkeys(names, 0)))
    fifth = comparison.worst_fifth
    # Two of six: one and a fifth, rounded up.
    assert (fifth.clips, fifth.by) == (["e", "c"], "drop")
    drops = {clip.name: clip.figures.drop for clip in comparison.clips}
    assert fifth.drop == pytest.approx(np.mean([drops[name].j_and_f for name in ("c", "e")]))  # type: ignore[union-attr]
    assert fifth.mean_iou == pytest.approx(np.mean([comparison.clips[index].figures.mean_iou for index in (2, 4)]))
    square = comparison.clips[2].objects[1]
    overlap = [(34 - k) / (34 + k) for k in range(1, FRAMES)]
    assert square.iou == pytest.approx(overlap)
    assert square.figures.first_third == pytest.approx(np.mean(overlap[:3]))
    assert square.figures.last_third == pytest.approx(np.mean(overlap[-3:]))
    assert comparison.overall.first_third > comparison.overall.last_third
    assert comparison.drift == sorted(comparison.drift, reverse=True)


def test_both_take_turns_and_times_leave_out_prompted_frames(clip: Clip) -> None:
    order: list[tuple[str, int]] = []
    seen: list[str] = []
    ours, theirs = Scripted(order=order, name="ours"), Scripted(order=order, name="theirs")
    comparison = check(ours, theirs, [clip], step=seen.append).comparison
    assert order[:4] == [("ours", 0), ("theirs", 0), ("theirs", 1), ("ours", 1)]
    assert seen == ["one"] * FRAMES
    for latency in (comparison.candidate_latency, comparison.reference_latency):
        assert latency is not None
        assert latency.frames == FRAMES - 1
        assert 0 < latency.median <= latency.p95


def test_a_reference_is_run_once_for_many_candidates(clip: Clip) -> None:
    order: list[tuple[str, int]] = []
    reference = [run(Scripted(name="theirs", order=order), clip)]
    # What is kept is a small part of the masks.
    assert sum(map(len, reference[0].packed)) < 0.05 * FRAMES * 2 * HEIGHT * WIDTH
    assert reference[0].frames == FRAMES
    np.testing.assert_array_equal(reference[0].masks(5), [true_mask(5, DISC), true_mask(5, SQUARE)])
    for by in (0, 2):
        stored = check(Scripted(shifted(by)), reference, [clip]).comparison
        direct = compared(Scripted(shifted(by)), Scripted(), clip)
        assert stored.overall == direct.overall
    assert len(order) == FRAMES
    with pytest.raises(InputError, match="frames 5 and 8 differ"):
        check(Scripted(), reference, [clip], max_frames=5)
    with pytest.raises(InputError, match="give one each"):
        check(Scripted(), reference, [clip, clip])


def test_frames_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clips to compare on"):
        count_frames([])
    write_clip(tmp_path, "clip", FRAMES)
    late = {index: np.where(labels(index) == SQUARE, 0, labels(index)).astype(np.uint8) for index in range(4)}
    write_clip(tmp_path / "late", "late", FRAMES, annotations=late)
    [clip], [other] = find_clips(tmp_path), find_clips(tmp_path / "late")
    assert count_frames([clip]) == [FRAMES]
    assert count_frames([clip, other], 6) == [6, 6]
    assert count_frames([clip, other], 60) == [FRAMES, FRAMES]
    with pytest.raises(InputError, match=r"clip late has a prompt for frame 4.*allow 6 frames or more"):
        count_frames([other], 4)
    with pytest.raises(InputError, match="clip late has a prompt for frame 4"):
        run(Scripted(), other, 4)
    # The square comes with the last frame: the disc is compared, the square is not.
    assert [
        one.object_id for one in compare([run(Scripted(), other, 5)], [run(Scripted(), other, 5)]).clips[0].objects
    ] == [DISC]
    with pytest.raises(InputError, match="no frame after an object's prompt"):
        count_frames([clip], 1)
    with pytest.raises(InputError, match="no frame after an object's prompt"):
        run(Scripted(), clip, 1)


def test_thresholds_that_mean_nothing_are_refused() -> None:
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="is not a number of points"):
            Thresholds(wrong)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="is not an IoU"):
            Thresholds(None, wrong)
    with pytest.raises(InputError, match="no threshold is given"):
        Thresholds(None, None)
    assert choose_thresholds(None, None, 1, 3) == Thresholds(1.0, None)
    assert choose_thresholds(None, 0.5, 0, 3) == Thresholds(None, 0.5)
    assert choose_thresholds(2.0, 0.5, 3, 3) == Thresholds(2.0, 0.5)
    with pytest.raises(
        InputError, match=r"`max_drop` cannot be judged: none of the 3 clips has ground-truth masks.*`min_iou`"
    ):
        choose_thresholds(1.0, 0.9, 0, 3)
    with pytest.raises(InputError, match=r"cannot be judged: the clip has no ground-truth masks.*`min_iou`"):
        choose_thresholds(None, None, 0, 1)


def test_no_figure_that_is_not_a_number_passes(clip: Clip) -> None:
    comparison = compared(Scripted(), Scripted(), clip)
    overall = comparison.overall
    assert overall.drop is not None
    unknown = replace(
        overall,
        drop=replace(overall.drop, j_and_f=math.nan),
        worst=replace(overall.worst, iou=math.nan),
    )
    verdict = judge(replace(comparison, overall=unknown), Thresholds(100.0, 0.0))
    assert not verdict.passed
    assert len(verdict.reasons) == 2
    with pytest.raises(InputError, match="without ground-truth masks"):
        judge(replace(comparison, overall=replace(overall, drop=None)), Thresholds(1.0))


@pytest.mark.parametrize(("drop", "iou", "passed"), [(20, 0.5, True), (1, 0.5, False), (20, 0.99, False)])
def test_each_threshold_decides(clip: Clip, drop: float, iou: float, passed: bool) -> None:
    comparison = compared(Scripted(shifted(1)), Scripted(), clip)
    assert judge(comparison, Thresholds(drop, iou)).passed is passed
    # Better than its reference is no drop.
    assert judge(compared(Scripted(), Scripted(shifted(1)), clip), Thresholds(0)).passed
