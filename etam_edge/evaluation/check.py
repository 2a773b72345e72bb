"""The accuracy-drop check: two trackers follow the same clips, and one is held against the other.

A `Run` keeps all that a comparison needs, so a reference is followed once and serves many candidates:

    reference = [run(reference_tracker, clip) for clip in clips]
    drop = check(candidate, reference, clips).comparison.overall.drop
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etam_edge.errors import InputError, NotFiniteError, RuntimeUnavailableError
from etam_edge.evaluation.metrics import boundary_measure, region_similarity
from etam_edge.evaluation.summary import Comparison, compare
from etam_edge.media.datasets import Clip, GroundTruth
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sources import import_opencv
from etam_edge.plotting import INSTALL
from etam_edge.runtimes import FrameResult, Tracker

NO_CHOICE = -2
"""Mask choice where there is no answer: before an object's first prompt, and where the model answered NaN."""

Step = Callable[[str], None]
"""Told the clip's name after every frame."""
Clocks = tuple["Tracker | None", "Tracker | None"]


@dataclass(frozen=True, eq=False)
class Run:
    """What one tracker answered over one clip: F frames, N objects.

    Attributes:
        clip: its name.
        runtime: where it ran.
        object_ids: the N objects, in the order of all arrays' columns.
        prompt_frames: index of each object's first prompt, in the same order.
        frame_shape: (H, W).
        scores: float32 (F, N), object scores; NaN where there is no answer.
        choices: int32 (F, N), mask choices; NO_CHOICE where there is no answer.
        regions: float64 (F, N), J after the object's first prompt; NaN on frames without its ground-truth mask.
        boundaries: float64 (F, N), F in the same way.
        milliseconds: float64 (F,), what `Session.track` took; NaN on frames with prompts or without objects.
        not_finite: frames on which the model answered NaN or infinity. They have empty masks, and were not remembered.
        packed: the masks; `masks` reads them.
    """

    clip: str
    runtime: str
    object_ids: tuple[int, ...]
    prompt_frames: tuple[int, ...]
    frame_shape: tuple[int, int]
    scores: np.ndarray
    choices: np.ndarray
    regions: np.ndarray
    boundaries: np.ndarray
    milliseconds: np.ndarray
    not_finite: tuple[int, ...]
    packed: Sequence[bytes]

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.packed)

    def masks(self, frame: int) -> np.ndarray:
        """bool (N, H, W): the masks of a frame; empty ones where there is no answer."""
        shape = (len(self.object_ids), *self.frame_shape)
        bits = np.frombuffer(zlib.decompress(self.packed[frame]), dtype=np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).view(bool).reshape(shape)


@dataclass(frozen=True, eq=False)
class Check:
    """A comparison, and the runs that it rests on, clip by clip."""

    comparison: Comparison
    candidate: list[Run]
    reference: list[Run]


def check(
    candidate: Tracker,
    reference: Tracker | Sequence[Run],
    clips: Sequence[Clip],
    max_frames: int | None = None,
    step: Step | None = None,
    clocks: Clocks = (None, None),
) -> Check:
    """Compare a tracker with another over clips.

    Args:
        candidate: who is judged.
        reference: who it is compared with: a tracker, which then takes turns with the candidate, so that their times
            can be compared; or its runs over the same clips, which are not made again.
        clips: at least one.
        max_frames: of each clip, or all.
        step: told the clip's name after every frame.
        clocks: trackers whose times count in place of the candidate's and the reference's, where those are made for
            accuracy and not for speed. They take turns with the others.

    Raises:
        InputError: there is nothing to compare, or a clip cannot be used.
        RuntimeUnavailableError: there are ground-truth masks, and OpenCV is not installed.
    """
    runs: list[tuple[Run, Run]] = []
    if isinstance(reference, Tracker):
        runs = [run_both(candidate, reference, clip, max_frames, step, clocks) for clip in clips]
    else:
        if len(reference) != len(clips):
            raise InputError(f"there are {len(reference)} runs of the reference for {len(clips)} clips; give one each")
        runs = [(run(candidate, clip, max_frames, step), known) for clip, known in zip(clips, reference, strict=True)]
    ours, theirs = [pair[0] for pair in runs], [pair[1] for pair in runs]
    return Check(compare(ours, theirs), ours, theirs)


def run(tracker: Tracker, clip: Clip, max_frames: int | None = None, step: Step | None = None) -> Run:
    """One tracker over one clip.

    Raises:
        InputError: the clip cannot be used, or has no frame after an object's prompt.
        RuntimeUnavailableError: there are ground-truth masks, and OpenCV is not installed.
    """
    return _follow([tracker], [], clip, max_frames, step)[0]


def run_both(
    candidate: Tracker,
    reference: Tracker,
    clip: Clip,
    max_frames: int | None = None,
    step: Step | None = None,
    clocks: Clocks = (None, None),
) -> tuple[Run, Run]:
    """Both trackers over one clip, frame by frame in turn, so that their times can be compared. Clocks as of `check`.

    Raises:
        InputError: the clip cannot be used, or has no frame after an object's prompt.
        RuntimeUnavailableError: there are ground-truth masks, and OpenCV is not installed.
    """
    present = [clock for clock in clocks if clock is not None]
    ours, theirs, *timed = _follow([candidate, reference], present, clip, max_frames, step)
    if clocks[1] is not None:
        theirs = replace(theirs, milliseconds=timed.pop().milliseconds)
    if clocks[0] is not None:
        ours = replace(ours, milliseconds=timed.pop().milliseconds)
    return ours, theirs


def count_frames(clips: Sequence[Clip], max_frames: int | None = None) -> list[int]:
    """Frames that a check of these clips takes from each. May decode whole videos.

    Raises:
        InputError: there are no clips, or one of them has a prompt too late or no frame after any prompt.
    """
    if not clips:
        raise InputError("there are no clips to compare on; give at least one")
    counts = []
    for clip in clips:
        length = clip.length
        count = length if max_frames is None else min(length, max_frames)
        _check_reach(clip, count, cut=count < length)
        counts.append(count)
    return counts


def is_judged(clip: Clip, count: int) -> bool:
    """Whether J and F can be averaged over the clip's first `count` frames: some object has ground truth between its
    prompt and the last frame."""
    if clip.truth is None:
        return False
    first = first_prompts(clip.plan)
    return any(
        first[number] < frame < count - 1
        for number in clip.plan.object_ids
        if number in clip.truth.values
        for frame in clip.truth.frames
    )


def first_prompts(plan: PromptPlan) -> dict[int, int]:
    """The frame of every object's first prompt."""
    first: dict[int, int] = {}
    for index in range(plan.last_frame + 1):
        for number in plan.prompts(index):
            first.setdefault(number, index)
    return first


def need_opencv() -> Any:
    """OpenCV, which finds boundaries and draws overlays.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    try:
        return import_opencv()
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            f"the check needs OpenCV, which cannot be imported ({error.__cause__}); install it with: {INSTALL}"
        ) from error


def _check_reach(clip: Clip, count: int, cut: bool) -> None:
    """
    Raises:
        InputError: a prompt lies beyond the first `count` frames, or no frame follows an object's prompt.
    """
    plan = clip.plan
    if cut and plan.last_frame >= count:
        raise InputError(
            f"clip {clip.name} has a prompt for frame {plan.last_frame}, which its first {count} frames do not reach; "
            f"allow {plan.last_frame + 2} frames or more"
        )
    try:
        plan.check_frames(count)
    except InputError as error:
        raise InputError(f"clip {clip.name}: {error}") from error
    if min(first_prompts(plan).values()) >= count - 1:
        raise InputError(
            f"clip {clip.name} has no frame after an object's prompt, so there is nothing to compare; "
            "give more frames, or prompt an earlier one"
        )


def _follow(
    trackers: Sequence[Tracker], clocks: Sequence[Tracker], clip: Clip, max_frames: int | None, step: Step | None
) -> list[Run]:
    """The runs of the trackers, then those of the clocks, which are not measured against ground-truth masks."""
    if clip.truth is not None:
        need_opencv()
    shape = clip.frames.frame_shape
    runners = [_Runner(tracker, clip, shape, judged=True) for tracker in trackers]
    runners += [_Runner(clock, clip, shape, judged=False) for clock in clocks]
    count = 0
    for _ in play(_frames_with_ground_truth(clip, shape), clip.plan, [runner.step for runner in runners], max_frames):
        count += 1
        if step is not None:
            step(clip.name)
    _check_reach(clip, count, cut=max_frames is not None and count == max_frames)
    return [runner.run() for runner in runners]


@dataclass(frozen=True, eq=False)
class _JudgedFrame:
    """A frame, uint8 (H, W, 3) RGB, with its ground-truth masks, or None where it has none."""

    pixels: np.ndarray
    truth: GroundTruth | None


def _frames_with_ground_truth(clip: Clip, shape: tuple[int, int]) -> Iterator[_JudgedFrame]:
    """
    Raises:
        InputError: a frame has another (H, W) than `shape`, or cannot be read.
    """
    for index, frame in enumerate(clip.frames):
        if frame.pixels.shape[:2] != shape:
            raise InputError(
                f"clip {clip.name}: frame {frame.name} is {frame.pixels.shape[1]} x {frame.pixels.shape[0]} pixels and "
                f"the first {shape[1]} x {shape[0]}; give frames of one size"
            )
        yield _JudgedFrame(frame.pixels, clip.truth.at(index, shape) if clip.truth is not None else None)


class _Runner:
    """Runs one tracker over a clip and collects its `Run`.

    Args:
        tracker: a bundle.
        clip: with prompts.
        shape: (H, W) of its frames.
        judged: whether masks are compared with the ground truth.
    """

    def __init__(self, tracker: Tracker, clip: Clip, shape: tuple[int, int], judged: bool) -> None:
        self._clip = clip
        self._shape = shape
        self._judged = judged
        self._runtime = tracker.runtime
        self._session = tracker.start_session(max_objects=len(clip.plan.object_ids))
        self._object_ids = tuple(clip.plan.object_ids)
        self._first = first_prompts(clip.plan)
        self._scores: list[np.ndarray] = []
        self._choices: list[np.ndarray] = []
        self._measures: list[np.ndarray] = []
        self._milliseconds: list[float] = []
        self._not_finite: list[int] = []
        self._packed: list[bytes] = []

    def step(self, played: PlayedFrame[_JudgedFrame]) -> None:
        """
        Raises:
            InputError: the session refuses the frame or a prompt.
        """
        index, truth = played.index, played.frame.truth if self._judged else None
        result, seconds = self._track(played)
        count = len(self._object_ids)
        masks = np.zeros((count, *self._shape), dtype=bool)
        scores, choices = np.full(count, np.nan, dtype=np.float32), np.full(count, NO_CHOICE, dtype=np.int32)
        if result is None:
            self._not_finite.append(index)
        else:
            for row, number in enumerate(result.object_ids):
                column = self._object_ids.index(number)
                masks[column] = result.masks[row]
                scores[column], choices[column] = result.object_scores[row], result.mask_choices[row]
        timed = result is not None and result.object_ids and not played.prompts
        self._milliseconds.append(1e3 * seconds if timed else np.nan)
        self._scores.append(scores)
        self._choices.append(choices)
        self._measures.append(self._measure(index, masks, truth))
        # Masks are large and smooth: a few kilobytes a frame remain of them.
        self._packed.append(zlib.compress(np.packbits(masks).tobytes(), 1))

    def run(self) -> Run:
        measures = np.stack(self._measures)
        return Run(
            clip=self._clip.name,
            runtime=self._runtime,
            object_ids=self._object_ids,
            prompt_frames=tuple(self._first[number] for number in self._object_ids),
            frame_shape=self._shape,
            scores=np.stack(self._scores),
            choices=np.stack(self._choices),
            regions=measures[..., 0],
            boundaries=measures[..., 1],
            milliseconds=np.array(self._milliseconds),
            not_finite=tuple(self._not_finite),
            packed=tuple(self._packed),
        )

    def _track(self, played: PlayedFrame[_JudgedFrame]) -> tuple[FrameResult | None, float]:
        """The session's result, None where the model's output is not finite, and the seconds of `Session.track`."""
        begin = time.perf_counter()
        try:
            result = self._session.track(played.pixels, prompts=played.prompts)
            seconds = time.perf_counter() - begin
            for number, prompt in played.corrections:
                # An object whose prompt gave an output that is not finite was never added.
                if number in self._session.object_ids:
                    result = self._session.refine(number, prompt)
        except NotFiniteError:
            return None, time.perf_counter() - begin
        except InputError as error:
            raise InputError(f"clip {self._clip.name}: {error}") from error
        return result, seconds

    def _measure(self, index: int, masks: np.ndarray, truth: GroundTruth | None) -> np.ndarray:
        """float64 (N, 2): J and F of every object, NaN where it has no ground-truth mask or was not prompted before."""
        values = np.full((len(self._object_ids), 2), np.nan)
        for column, number in enumerate(self._object_ids):
            if truth is None or number not in truth.objects or index <= self._first[number]:
                continue
            true = truth.objects[number]
            values[column] = (
                region_similarity(masks[column], true, truth.void),
                boundary_measure(masks[column], true, void=truth.void),
            )
        return values
