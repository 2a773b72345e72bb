"""Which frames of a clip a check compares, and which of them have ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from etam_edge.errors import InputError
from etam_edge.media.datasets import Clip
from etam_edge.media.prompt_plan import PromptPlan


def count_frames(clips: Sequence[Clip], max_frames: int | None = None) -> list[int]:
    """Number of frames that a check compares of each clip. May decode whole videos.

    Args:
        clips: at least one.
        max_frames: maximum number of frames of a clip; None for all.

    Raises:
        InputError: there are no clips; or a clip has a prompt after its last frame, or no frame after a prompt.
    """
    if not clips:
        raise InputError("there are no clips to compare on; give at least one")
    counts = []
    for clip in clips:
        length = clip.length
        count = length if max_frames is None else min(length, max_frames)
        check_reach(clip, count, cut=count < length)
        counts.append(count)
    return counts


def is_judged(clip: Clip, count: int) -> bool:
    """Whether J and F can be averaged over the first `count` frames of a clip.

    They can if an object has a ground-truth mask on a frame between its first prompt and the last frame.
    """
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
    """Index of the frame with the first prompt of each object, by object id."""
    first: dict[int, int] = {}
    for index in range(plan.last_frame + 1):
        for number in plan.prompts(index):
            first.setdefault(number, index)
    return first


def check_reach(clip: Clip, count: int, cut: bool) -> None:
    """Check that the first `count` frames of a clip contain its prompts, and a frame after one of them.

    Args:
        clip: with prompts.
        count: number of frames.
        cut: whether the clip has more than `count` frames.

    Raises:
        InputError: they do not.
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
