"""The figures of a comparison between a candidate and a reference, as dataclasses that are written to JSON.

Averages are taken as in the DAVIS evaluation: first over an object's frames, then over objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etam_edge.errors import InputError
from etam_edge.evaluation.metrics import region_similarity

if TYPE_CHECKING:
    from etam_edge.evaluation.runs import Run

POINTS = 100.0
"""A drop of one point is a hundredth of J&F."""


@dataclass(frozen=True)
class Accuracy:
    """Region similarity J, boundary measure F and their mean J&F, against ground-truth masks, 0 to 1.

    As a drop: in points, positive if the candidate is worse.
    """

    j: float
    f: float
    j_and_f: float


@dataclass(frozen=True)
class Share:
    """`count` out of `of`."""

    count: int
    of: int


@dataclass(frozen=True)
class WorstFrame:
    """The object and frame whose candidate mask has the smallest IoU with the reference's mask."""

    clip: str
    object_id: int
    frame: int
    iou: float


@dataclass(frozen=True)
class Figures:
    """Figures of one object, of all objects of a clip, or of all objects of all clips.

    An object frame is one frame of one object, after the object's prompt.

    Attributes:
        objects: number of objects.
        judged_objects: number of objects that have a ground-truth mask on a frame that J and F are averaged over.
        reference, candidate: J, F and J&F over the frames between an object's prompt and the clip's last frame; None
            without ground-truth masks.
        drop: reference minus candidate, in points; None without ground-truth masks.
        mean_iou: IoU of the candidate's masks with the reference's, averaged over the object frames.
        worst: the object frame on which this IoU is smallest.
        first_third, last_third: mean IoU over the first and the last third of the frames. Their difference is drift.
        score_flips: object frames that only one of both takes for visible (object score > 0).
        choice_flips: object frames on which both chose another of the decoder's three masks.
        both_empty: object frames on which both masks are empty, which counts as IoU 1.
    """

    objects: int
    judged_objects: int
    reference: Accuracy | None
    candidate: Accuracy | None
    drop: Accuracy | None
    mean_iou: float
    worst: WorstFrame
    first_third: float
    last_third: float
    score_flips: Share
    choice_flips: Share
    both_empty: Share


@dataclass(frozen=True)
class ObjectSummary:
    """Figures of one object of a clip.

    Attributes:
        object_id: the object's id.
        prompt_frame: index of the frame with its first prompt.
        figures: of this object.
        iou: IoU of the candidate's mask with the reference's, for each frame after the prompt.
        reference_j, candidate_j: J on the same frames, None on frames without a ground-truth mask.
    """

    object_id: int
    prompt_frame: int
    figures: Figures
    iou: list[float]
    reference_j: list[float | None]
    candidate_j: list[float | None]


@dataclass(frozen=True)
class ClipSummary:
    """Figures of one clip.

    Attributes:
        name: of the clip.
        frames: number of frames that were tracked.
        figures: over its objects.
        reference_not_finite, candidate_not_finite: number of frames whose outputs were NaN or infinite.
        objects: the objects that have a frame after their prompt.
    """

    name: str
    frames: int
    figures: Figures
    reference_not_finite: int
    candidate_not_finite: int
    objects: list[ObjectSummary]


@dataclass(frozen=True)
class WorstFifth:
    """The fifth of the clips, and at least one clip, on which the candidate is worst.

    Attributes:
        clips: names of the clips, the worst first.
        by: figure that the clips are ranked by: "drop" if every clip has ground-truth masks, else "mean_iou".
        drop: mean drop of J&F over these clips, in points; None if none of them has ground-truth masks.
        mean_iou: mean IoU over these clips.
    """

    clips: list[str]
    by: str
    drop: float | None
    mean_iou: float


@dataclass(frozen=True)
class Latency:
    """Time of `Session.track` in milliseconds, over the frames without prompts."""

    median: float
    p95: float
    frames: int


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a reference over clips.

    Attributes:
        overall: figures over all objects of all clips.
        clips: figures of each clip.
        judged_clips: number of clips that have ground-truth masks on frames that J and F are averaged over.
        worst_fifth: the worst clips.
        drift: mean IoU by the number of frames since the prompt (1, 2, ...), over the objects that have so many.
        reference_latency, candidate_latency: can be compared if both trackers were interleaved; None if no frame was
            timed.
        reference_not_finite, candidate_not_finite: number of frames whose outputs were NaN or infinite.
    """

    overall: Figures
    clips: list[ClipSummary]
    judged_clips: int
    worst_fifth: WorstFifth
    drift: list[float]
    reference_latency: Latency | None
    candidate_latency: Latency | None
    reference_not_finite: int
    candidate_not_finite: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(candidate: Sequence[Run], reference: Sequence[Run]) -> Comparison:
    """Compare the runs of two trackers over the same clips, in the same order.

    Raises:
        InputError: there are no runs, or they are of different clips, frames or objects.
    """
    if not candidate:
        raise InputError("there are no clips to compare on; give at least one")
    clips = [_clip(ours, theirs) for ours, theirs in _pairs(candidate, reference)]
    objects = [one for clip in clips for one in clip.objects]
    return Comparison(
        overall=_aggregate([one.figures for one in objects]),
        clips=clips,
        judged_clips=sum(clip.figures.drop is not None for clip in clips),
        worst_fifth=_worst_fifth(clips),
        drift=_drift([one.iou for one in objects]),
        reference_latency=_latency(reference),
        candidate_latency=_latency(candidate),
        reference_not_finite=sum(clip.reference_not_finite for clip in clips),
        candidate_not_finite=sum(clip.candidate_not_finite for clip in clips),
    )


def _pairs(candidate: Sequence[Run], reference: Sequence[Run]) -> Iterable[tuple[Run, Run]]:
    """
    Raises:
        InputError: the runs are of different clips, frames or objects.
    """
    if len(candidate) != len(reference):
        raise InputError(
            f"{len(candidate)} and {len(reference)} runs cannot be compared; give runs over the same clips"
        )
    for ours, theirs in zip(candidate, reference, strict=True):
        for what, one, other in (
            ("clip", ours.clip, theirs.clip),
            ("frames", ours.frames, theirs.frames),
            ("frame size", ours.frame_shape, theirs.frame_shape),
            ("objects", ours.object_ids, theirs.object_ids),
            ("prompts", ours.prompt_frames, theirs.prompt_frames),
        ):
            if one != other:
                raise InputError(
                    f"runs over clip {ours.clip} cannot be compared: {what} {one} and {other} differ; "
                    "run both over the same clips, with as many frames"
                )
        yield ours, theirs


def _clip(ours: Run, theirs: Run) -> ClipSummary:
    iou, empty = _overlap(ours, theirs)
    objects = [
        _object(ours, theirs, column, iou[:, column], empty[:, column])
        for column in range(len(ours.object_ids))
        if ours.prompt_frames[column] < ours.frames - 1
    ]
    return ClipSummary(
        name=ours.clip,
        frames=ours.frames,
        figures=_aggregate([one.figures for one in objects]),
        reference_not_finite=len(theirs.not_finite),
        candidate_not_finite=len(ours.not_finite),
        objects=objects,
    )


def _overlap(ours: Run, theirs: Run) -> tuple[np.ndarray, np.ndarray]:
    """IoU of the masks of both runs, and whether both are empty.

    Returns:
        iou: float64 (F, N), NaN up to the object's first prompt.
        empty: bool (F, N).
    """
    iou = np.full((ours.frames, len(ours.object_ids)), np.nan)
    empty = np.zeros(iou.shape, dtype=bool)
    for frame in range(min(ours.prompt_frames) + 1, ours.frames):
        mine, other = ours.masks(frame), theirs.masks(frame)
        for column, first in enumerate(ours.prompt_frames):
            if frame > first:
                iou[frame, column] = region_similarity(mine[column], other[column])
                empty[frame, column] = not mine[column].any() and not other[column].any()
    return iou, empty


def _object(ours: Run, theirs: Run, column: int, iou: np.ndarray, empty: np.ndarray) -> ObjectSummary:
    number, first = ours.object_ids[column], ours.prompt_frames[column]
    after = slice(first + 1, None)
    values = iou[after]
    third = math.ceil(len(values) / 3)
    smallest = int(values.argmin())
    reference, candidate = _accuracy(theirs, column), _accuracy(ours, column)
    scores = ours.scores[after, column], theirs.scores[after, column]
    answered = np.isfinite(scores[0]) & np.isfinite(scores[1])
    choices = ours.choices[after, column] != theirs.choices[after, column]
    frames = len(values)
    figures = Figures(
        objects=1,
        judged_objects=int(reference is not None),
        reference=reference,
        candidate=candidate,
        drop=_drop(reference, candidate),
        mean_iou=float(values.mean()),
        worst=WorstFrame(ours.clip, number, first + 1 + smallest, float(values[smallest])),
        first_third=float(values[:third].mean()),
        last_third=float(values[-third:].mean()),
        score_flips=Share(_count(answered & ((scores[0] > 0) != (scores[1] > 0))), _count(answered)),
        choice_flips=Share(_count(answered & choices), _count(answered)),
        both_empty=Share(_count(empty[after]), frames),
    )
    return ObjectSummary(
        object_id=number,
        prompt_frame=first,
        figures=figures,
        iou=[float(value) for value in values],
        reference_j=_known(theirs.regions[after, column]),
        candidate_j=_known(ours.regions[after, column]),
    )


def _accuracy(run: Run, column: int) -> Accuracy | None:
    """J and F over the frames between an object's prompt and the clip's last frame, both excluded, as DAVIS does."""
    regions, boundaries = (
        values[run.prompt_frames[column] + 1 : -1, column] for values in (run.regions, run.boundaries)
    )
    known = ~np.isnan(regions)
    if not known.any():
        return None
    j, f = float(regions[known].mean()), float(boundaries[known].mean())
    return Accuracy(j, f, (j + f) / 2)


def _drop(reference: Accuracy | None, candidate: Accuracy | None) -> Accuracy | None:
    if reference is None or candidate is None:
        return None
    return Accuracy(
        POINTS * (reference.j - candidate.j),
        POINTS * (reference.f - candidate.f),
        POINTS * (reference.j_and_f - candidate.j_and_f),
    )


def _aggregate(parts: Sequence[Figures]) -> Figures:
    """Figures over several objects, from the figures of each."""
    reference = _mean_accuracy([part.reference for part in parts])
    candidate = _mean_accuracy([part.candidate for part in parts])
    return Figures(
        objects=len(parts),
        judged_objects=sum(part.judged_objects for part in parts),
        reference=reference,
        candidate=candidate,
        drop=_drop(reference, candidate),
        mean_iou=_mean([part.mean_iou for part in parts]),
        worst=min((part.worst for part in parts), key=lambda worst: worst.iou),
        first_third=_mean([part.first_third for part in parts]),
        last_third=_mean([part.last_third for part in parts]),
        score_flips=_total([part.score_flips for part in parts]),
        choice_flips=_total([part.choice_flips for part in parts]),
        both_empty=_total([part.both_empty for part in parts]),
    )


def _mean_accuracy(parts: Sequence[Accuracy | None]) -> Accuracy | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    j, f = _mean([part.j for part in known]), _mean([part.f for part in known])
    return Accuracy(j, f, (j + f) / 2)


def _worst_fifth(clips: Sequence[ClipSummary]) -> WorstFifth:
    drops = {clip.name: clip.figures.drop.j_and_f for clip in clips if clip.figures.drop is not None}
    by_drop = len(drops) == len(clips)
    ranked = sorted(clips, key=lambda clip: -drops[clip.name] if by_drop else clip.figures.mean_iou)
    worst = ranked[: math.ceil(len(clips) / 5)]
    known = [drops[clip.name] for clip in worst if clip.name in drops]
    return WorstFifth(
        clips=[clip.name for clip in worst],
        by="drop" if by_drop else "mean_iou",
        drop=_mean(known) if known else None,
        mean_iou=_mean([clip.figures.mean_iou for clip in worst]),
    )


def _drift(curves: Sequence[Sequence[float]]) -> list[float]:
    longest = max(map(len, curves))
    return [_mean([curve[since] for curve in curves if since < len(curve)]) for since in range(longest)]


def _latency(runs: Sequence[Run]) -> Latency | None:
    times = timed(runs)
    if not len(times):
        return None
    return Latency(float(np.median(times)), float(np.percentile(times, 95)), len(times))


def timed(runs: Sequence[Run]) -> np.ndarray:
    """Times of all frames that were timed, in milliseconds, float64 (T,)."""
    times = np.concatenate([run.milliseconds for run in runs])
    return times[~np.isnan(times)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _count(values: np.ndarray) -> int:
    return int(np.count_nonzero(values))


def _total(shares: Sequence[Share]) -> Share:
    return Share(sum(share.count for share in shares), sum(share.of for share in shares))


def _known(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
