"""The run: streams of one or two candidates, interleaved frame by frame, then the stages of each.

A frame begins with decoded pixels and ends when its masks are there at frame size and the device has done all of its
work. Nothing else is timed in that pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from etam_edge.benchmark import machine
from etam_edge.benchmark.clip import BenchClip, TimedFrame
from etam_edge.benchmark.result import Memory, ObjectsRun, SideRun, Stages, Timing, drift, ratio
from etam_edge.benchmark.stages import Clock, TimedStream, waiting_for
from etam_edge.errors import InputError
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.prompt_plan import plan_of
from etam_edge.runtimes.resizing import EXACT
from etam_edge.runtimes.tracker import Tracker
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import ModelSpec

Stream = Callable[[np.ndarray, "dict[int, Prompt] | None"], object]
"""Takes the next frame, uint8 (H, W, 3) RGB, with prompts on the first one; returns when all its work is done."""
Step = Callable[[str], None]
"""Called after every frame with what is being measured."""

MIN_FRAMES = 10
"""Frames after the warm-up; percentiles of fewer say nothing."""
MAX_STAGE_FRAMES = 60
"""Frames after the warm-up in the pass over stages: medians are what it is for."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What is measured.

    Attributes:
        name: of its side.
        start: makes the stream for so many objects.
        tracker: for the stages, or None where they cannot be measured separately.
        resize: how the host resizes, "exact" or "fast".
    """

    name: str
    start: Callable[[int], Stream]
    tracker: Tracker | None = None
    resize: str = EXACT

    @classmethod
    def of(cls, name: str, tracker: Tracker, resize: str = EXACT) -> Candidate:
        """A bundle in its runtime."""
        wait = waiting_for(tracker.backend.device)

        def start(objects: int) -> Stream:
            session = tracker.start_session(max_objects=objects, resize=resize)

            def track(frame: np.ndarray, prompts: dict[int, Prompt] | None) -> None:
                session.track(frame, prompts)
                wait()

            return track

        return cls(name, start, tracker, resize)


def frames_to_fill(spec: ModelSpec) -> int:
    """Frames until an object's memory is full: the prompted one and those whose pointers and masks are kept."""
    return max(spec.max_object_pointers, spec.memory_frames) + 1


def check_length(frames: int, warm_up: int, specs: Sequence[ModelSpec]) -> None:
    """
    Raises:
        InputError: the warm-up ends before memory is full, or too few frames remain after it.
    """
    needed = max(map(frames_to_fill, specs))
    if warm_up < needed:
        raise InputError(
            f"a warm-up of {warm_up} frames ends before the memory is full, which takes {needed} frames, and frames "
            f"before that are not like those that follow; use `warm_up={needed}` or more"
        )
    if frames - warm_up < MIN_FRAMES:
        raise InputError(
            f"{frames} frames leave {max(frames - warm_up, 0)} after a warm-up of {warm_up}, and figures need "
            f"{MIN_FRAMES} or more; use `frames={warm_up + MIN_FRAMES}` or more"
        )


def stage_frames(frames: int, warm_up: int) -> int:
    """Frames of the pass over stages, warm-up included."""
    return min(frames, warm_up + MAX_STAGE_FRAMES)


def measure(
    candidates: Sequence[Candidate],
    clip: BenchClip,
    objects: int,
    frames: int,
    warm_up: int,
    clock: Clock = time.perf_counter,
    step: Step = lambda what: None,
    root: Path = Path("/"),
) -> ObjectsRun:
    """Measure one or two candidates with one number of objects.

    Args:
        candidates: the bundle, then what it is measured against.
        clip: frames and prompts.
        objects: tracked from the first frame on.
        frames: of the stream, warm-up included; `check_length` has passed them.
        warm_up: frames at its beginning that do not count.
        clock: seconds.
        step: called after every frame.
        root: where system files are read.

    Raises:
        EtamError: a frame cannot be read, or a candidate refuses it.
    """
    streams, starts = [], []
    for candidate in candidates:
        begin = clock()
        streams.append(candidate.start(objects))
        starts.append(1e3 * (clock() - begin))
    times: list[list[float]] = [[] for _ in candidates]
    decoding: list[float] = []
    after_warm_up = None
    noun = "1 object" if objects == 1 else f"{objects} objects"

    def timed(stream: Stream, taken: list[float]) -> Callable[[PlayedFrame[TimedFrame]], None]:
        def run(played: PlayedFrame[TimedFrame]) -> None:
            prompts = dict(played.prompts) or None
            begin = clock()
            stream(played.pixels, prompts)
            taken.append(1e3 * (clock() - begin))

        return run

    runners = [timed(stream, taken) for stream, taken in zip(streams, times, strict=True)]
    for played, _ in play(clip.frames(clock), plan_of(clip.prompts(objects)), runners, frames):
        if played.index >= warm_up and played.frame.decode is not None:
            decoding.append(played.frame.decode)
        if played.index == warm_up - 1:
            after_warm_up = machine.resident_memory(root)
        step(f"frames, {noun}")
    at_end = machine.resident_memory(root)
    grown = at_end - after_warm_up if at_end is not None and after_warm_up is not None else None
    memory = Memory(after_warm_up, at_end, grown, machine.peak_memory(), machine.device_memory())
    # The memory of these streams is freed before the next ones are started.
    streams.clear()
    runners.clear()
    trackers = {candidate.name: candidate.tracker for candidate in candidates if candidate.tracker is not None}
    staged = measure_stages(
        trackers,
        clip,
        objects,
        stage_frames(frames, warm_up),
        warm_up,
        clock,
        lambda: step(f"stages, {noun}"),
        {candidate.name: candidate.resize for candidate in candidates},
    )
    sides = []
    for candidate, start, taken in zip(candidates, starts, times, strict=True):
        stages, nbytes = staged.get(candidate.name, (None, None))
        whole = Timing.of(taken[warm_up:])
        sides.append(
            SideRun(
                side=candidate.name,
                start=start,
                first_frame=taken[0],
                second_frame=taken[1],
                milliseconds=taken,
                whole=whole,
                frames_per_second=whole.frames_per_second,
                drift=drift(taken, warm_up),
                session_memory=nbytes,
                stages=stages,
            )
        )
    return ObjectsRun(
        objects=objects,
        decode=Timing.of(decoding) if decoding else None,
        sides=sides,
        ratio=ratio(times[0][warm_up:], times[1][warm_up:]) if len(times) > 1 else None,
        memory=memory,
    )


def measure_stages(
    trackers: Mapping[str, Tracker],
    clip: BenchClip,
    objects: int,
    frames: int,
    warm_up: int,
    clock: Clock = time.perf_counter,
    step: Callable[[], None] = lambda: None,
    resize: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, tuple[Stages, int]]:
    """By name: the stages of a bundle's frames after the warm-up, and the bytes of all buffers of one session.

    `resize` says by name how the host resizes, "exact" where it says nothing.

    Raises:
        EtamError: a frame cannot be read, or a session refuses it.
    """
    streams = {
        name: TimedStream(tracker, objects, clock, resize.get(name, EXACT)) for name, tracker in trackers.items()
    }
    spent: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in streams}

    def timed(name: str) -> Callable[[PlayedFrame[TimedFrame]], None]:
        def run(played: PlayedFrame[TimedFrame]) -> None:
            taken = streams[name].track(played.pixels, dict(played.prompts) or None)
            if played.index >= warm_up:
                spent[name].append(taken)
            step()

        return run

    for _ in play(clip.frames(), plan_of(clip.prompts(objects)), [timed(name) for name in streams], frames):
        pass
    return {name: (_stages(spent[name]), stream.nbytes) for name, stream in streams.items()}


def _stages(spent: Sequence[tuple[float, dict[str, float]]]) -> Stages:
    names = spent[0][1]
    return Stages(
        whole=Timing.of([whole for whole, _ in spent]),
        stages={name: Timing.of([parts[name] for _, parts in spent]) for name in names},
    )
