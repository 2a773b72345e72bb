"""The playback loop: frames of a source go through one or more sessions, with the prompts planned for each frame.

Everything that tracks a source uses `play`: the commands `track`, `check`, `record` and `bench`, the benchmarks, and
`follow`, the public form for one session.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.prompt_plan import NO_FRAME, PromptPlan, plan_of
from etam_edge.media.sources import Camera, FrameSource, NamedFrame, open_source
from etam_edge.runtimes.frames import as_frame
from etam_edge.runtimes.session import Session
from etam_edge.runtimes.types import FrameResult, Prompt

Source = str | os.PathLike[str] | int | FrameSource | Iterable[Any]
"""A path, a camera number, an opened source, or an iterable of frames: uint8 (H, W, 3) RGB arrays or PIL images."""


class Frame(Protocol):
    """Anything with pixels, uint8 (H, W, 3) RGB."""

    @property
    def pixels(self) -> np.ndarray: ...


AnyFrame = TypeVar("AnyFrame", bound=Frame)
Output = TypeVar("Output")


@dataclass(frozen=True, eq=False)
class PlayedFrame(Generic[AnyFrame]):
    """One frame of a source, with what is planned for it.

    Attributes:
        index: in the source, from 0.
        frame: as the source gave it.
        prompts: to pass with the frame, by object id.
        corrections: to apply once it has been tracked, in order.
    """

    index: int
    frame: AnyFrame
    prompts: Mapping[int, Prompt]
    corrections: Sequence[tuple[int, Prompt]]

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return self.frame.pixels


def play(
    source: Iterable[AnyFrame],
    plan: PromptPlan,
    runners: Sequence[Callable[[PlayedFrame[AnyFrame]], Output]],
    max_frames: int | None = None,
) -> Iterator[tuple[PlayedFrame[AnyFrame], list[Output]]]:
    """Pass each frame to all runners, interleaved, and yield the frame with their outputs.

    The order of the runners is reversed on every second frame: the first one finds the caches filled with other data,
    and this way the disadvantage is shared when they are timed.

    Args:
        source: frames; the iterator over it is closed at the end, also where the caller stops early.
        plan: prompts and corrections.
        runners: each processes a frame, for example with `track_frame`.
        max_frames: number of frames to read, or all.

    Yields:
        the frame, and the outputs in the order of `runners`.
    """
    frames = iter(source)
    try:
        for index, frame in enumerate(islice(frames, max_frames)):
            played = PlayedFrame(index, frame, plan.prompts(index), plan.corrections(index))
            order = range(len(runners)) if index % 2 == 0 else range(len(runners) - 1, -1, -1)
            outputs = {number: runners[number](played) for number in order}
            yield played, [outputs[number] for number in range(len(runners))]
    finally:
        # An iterator of the caller's own is not closed: the caller may continue to read from it.
        close = getattr(frames, "close", None)
        if close is not None and frames is not source:
            close()


def track_frame(session: Session, played: PlayedFrame[AnyFrame]) -> FrameResult:
    """Track a frame with its prompts, then apply its corrections.

    Returns:
        the frame's result, after the last correction.

    Raises:
        EtamError: as of `Session.track` and `Session.refine`.
    """
    result = session.track(played.pixels, prompts=played.prompts)
    for object_id, prompt in played.corrections:
        result = session.refine(object_id, prompt)
    return result


def follow(
    session: Session,
    source: Source,
    prompts: PromptPlan | Mapping[int, Prompt] | Mapping[int, Mapping[int, Prompt]] | None = None,
    *,
    max_frames: int | None = None,
) -> Iterator[FrameResult]:
    """Track a whole source, one result for each frame.

        for result in etam_edge.follow(session, "video.mp4", prompts={1: Prompt(box=(100, 80, 420, 260))}):
            print(result.frame_index, result.visible, result.boxes)

    Frames are read and tracked lazily, as results are requested. The source is closed after the last frame, or when the
    iterator is closed. The session stays open: `session.refine` corrects the frame just yielded, and another call of
    `follow` continues the stream.

    Args:
        session: of the stream; it may have tracked other frames before.
        source: path of a video file or a folder of images, number of a camera, or an iterable of frames: uint8
            (H, W, 3) RGB arrays or PIL images.
        prompts: {object_id: Prompt} for the first frame, or {frame_index: {object_id: Prompt}}, with frames of this
            source counted from 0; or the plan that `etam_edge.media.prompt_files.plan_file` reads.
        max_frames: stop after this many frames.

    Raises:
        InputError: the source cannot be read, or prompts are not usable or for frames that it does not have. Where the
            number of frames is not known beforehand, a prompt that was never reached is logged as a warning.
        EtamError: as of `Session.track`; raised when the frame is requested.
        RuntimeUnavailableError: the source needs PyAV, which is not installed.
    """
    plan = plan_of(prompts)
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames must be at least 1, not {max_frames}")
    frames = open_frames(source)
    check_reach(plan, frames, max_frames)
    return _follow(session, frames, plan, max_frames)


def _follow(
    session: Session, frames: Iterable[NamedFrame], plan: PromptPlan, max_frames: int | None
) -> Iterator[FrameResult]:
    count = 0
    for _, (result,) in play(frames, plan, [lambda played: track_frame(session, played)], max_frames):
        count += 1
        yield result
    log = logging.getLogger(__name__)
    ending = getattr(frames, "ending", None)
    if ending is not None and not ending.is_whole:
        log.warning("the source was not read whole: %s", ending.shortfall())
    if plan.last_frame >= count:
        log.warning(
            "the source ended after %d frames, and the prompt for frame %d was never reached", count, plan.last_frame
        )


def open_frames(source: Source) -> Iterable[NamedFrame]:
    """The frames of any source that `follow` accepts.

    Raises:
        InputError: there are no frames to be read from it.
        RuntimeUnavailableError: it needs PyAV, which is not installed.
    """
    if isinstance(source, str | os.PathLike):
        return open_source(os.fspath(source))
    if isinstance(source, int) and not isinstance(source, bool):
        return Camera(source)
    if hasattr(source, "frame_shape") and hasattr(source, "stem"):
        return cast(FrameSource, source)
    if isinstance(source, Iterable):
        return _Numbered(source)
    raise InputError(
        f"a {type(source).__name__} is not a source of frames; give a path, a camera number or an iterable of frames"
    )


class _Numbered:
    """Frames of an iterable, named by their number."""

    def __init__(self, frames: Iterable[Any]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[NamedFrame]:
        for index, frame in enumerate(self._frames):
            yield NamedFrame(f"{index:05d}", as_frame(frame, f"frame {index} of the source"), index)


def check_reach(plan: PromptPlan, frames: Iterable[NamedFrame], max_frames: int | None) -> None:
    """Refuse prompts for frames that will not come, where that can be known beforehand.

    Raises:
        InputError: a prompt is for a frame beyond the source's last one, or beyond `max_frames`.
    """
    if plan.last_frame == NO_FRAME:
        return
    if max_frames is not None:
        plan.check_frames(max_frames)
    length = getattr(frames, "length", None)
    # A video file may announce too few frames. Counting them decodes the file, so it is done only where it matters.
    if length is not None and plan.last_frame >= length:
        count = frames.count()  # type: ignore[attr-defined]
        if count is not None:
            plan.check_frames(count)
