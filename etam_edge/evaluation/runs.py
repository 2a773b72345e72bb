"""Runs: the outputs of trackers over a clip, with all that a comparison needs.

A `Run` stores masks compressed, so that a reference is run once and compared with many candidates.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etam_edge.errors import InputError, NotFiniteError, RuntimeUnavailableError
from etam_edge.evaluation.clips import check_reach, first_prompts
from etam_edge.evaluation.metrics import boundary_measure, region_similarity
from etam_edge.media.datasets import Clip, GroundTruth
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.sources import import_opencv
from etam_edge.plotting import INSTALL
from etam_edge.runtimes import FrameResult, Tracker

NO_CHOICE = -2
"""Choice of mask on frames without outputs: before an object's first prompt, and where the outputs are not finite."""

Step = Callable[[str], None]
"""Called with the clip's name after every frame."""
Clocks = tuple["Tracker | None", "Tracker | None"]
"""Trackers that are timed in place of the candidate and of the reference, or None."""


@dataclass(frozen=True, eq=False)
class Run:
    """Outputs of one tracker over one clip of F frames and N objects.

    Attributes:
        clip: name of the clip.
        runtime: name of the runtime.
        object_ids: ids of the objects, in the order of the columns of all arrays.
        prompt_frames: index of the frame with each object's first prompt, in the same order.
        frame_shape: (H, W).
        scores: object scores, float32 (F, N); NaN on frames without outputs.
        choices: choice among the decoder's masks, int32 (F, N); NO_CHOICE on frames without outputs.
        regions: J after the object's first prompt, float64 (F, N); NaN on frames without a ground-truth mask.
        boundaries: F in the same way, float64 (F, N).
        milliseconds: time of `Session.track`, float64 (F,); NaN on frames with prompts or without objects.
        not_finite: indices of the frames whose outputs were NaN or infinite. Their masks are empty, and they were not
            stored in memory.
        packed: compressed masks of each frame; `masks` unpacks them.
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
        """Number of frames."""
        return len(self.packed)

    def masks(self, frame: int) -> np.ndarray:
        """Masks of a frame, bool (N, H, W). Objects without outputs have empty masks."""
        shape = (len(self.object_ids), *self.frame_shape)
        bits = np.frombuffer(zlib.decompress(self.packed[frame]), dtype=np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).view(bool).reshape(shape)


def run(tracker: Tracker, clip: Clip, max_frames: int | None = None, step: Step | None = None) -> Run:
    """Run a tracker over a clip.

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
    """Run two trackers over a clip, interleaved frame by frame, so that their times can be compared.

    `clocks` are those of `check`.

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


def need_opencv() -> Any:
    """Import OpenCV, which finds boundaries and draws overlays.

    Raises:
        RuntimeUnavailableError: OpenCV is not installed.
    """
    try:
        return import_opencv()
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            f"the check needs OpenCV, which cannot be imported ({error.__cause__}); install it with: {INSTALL}"
        ) from error


def _follow(
    trackers: Sequence[Tracker], clocks: Sequence[Tracker], clip: Clip, max_frames: int | None, step: Step | None
) -> list[Run]:
    """Interleave trackers over a clip, and return their runs. Those of `clocks`, which come last, have no J and F."""
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
    check_reach(clip, count, cut=max_frames is not None and count == max_frames)
    return [runner.run() for runner in runners]


@dataclass(frozen=True, eq=False)
class _JudgedFrame:
    """A frame, uint8 (H, W, 3) RGB, with its ground-truth masks, or None where it has none."""

    pixels: np.ndarray
    truth: GroundTruth | None


def _frames_with_ground_truth(clip: Clip, shape: tuple[int, int]) -> Iterator[_JudgedFrame]:
    """Yield the frames of a clip with their ground truth.

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
        """Track the next frame.

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
        # Masks are large and smooth: compressed, they take a few kilobytes a frame.
        self._packed.append(zlib.compress(np.packbits(masks).tobytes(), 1))

    def run(self) -> Run:
        """The run over the frames so far."""
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
        """J and F of each object, float64 (N, 2); NaN without a ground-truth mask, and up to its first prompt."""
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
