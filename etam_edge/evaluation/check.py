"""The accuracy check: a candidate is compared with a reference over clips.

A reference that is compared with many candidates is run once:

    reference = [run(reference_tracker, clip) for clip in clips]
    drop = check(candidate, reference, clips).comparison.overall.drop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etam_edge.errors import InputError
from etam_edge.evaluation.clips import count_frames, is_judged
from etam_edge.evaluation.runs import Clocks, Run, Step, need_opencv, run, run_both
from etam_edge.evaluation.summary import Comparison, compare
from etam_edge.media.datasets import Clip
from etam_edge.runtimes import Tracker

__all__ = ["Check", "Run", "check", "count_frames", "is_judged", "need_opencv", "run", "run_both"]


@dataclass(frozen=True, eq=False)
class Check:
    """A comparison, and the runs that were compared, one for each clip."""

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
    """Compare a candidate with a reference over clips.

    Args:
        candidate: the tracker to check.
        reference: a tracker, which is interleaved with the candidate so that their times can be compared; or the runs
            of a tracker over the same clips.
        clips: at least one.
        max_frames: maximum number of frames of a clip; None for all.
        step: called with the clip's name after every frame.
        clocks: trackers that are timed in place of the candidate and of the reference, if those compute as another
            machine does and are slower. They are interleaved with the others.

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
