"""What the second to fourth object cost in `track`, compared with the first; `encode` runs once for all objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.session_options import load_bundle
from benchmarks.settings import Advance, Part, Settings, counted
from benchmarks.tables import table
from etam_edge.benchmark.clip import TimedFrame, drawn_clip
from etam_edge.benchmark.result import INTERVAL, RESAMPLES
from etam_edge.benchmark.stages import TimedStream
from etam_edge.media.playback import PlayedFrame, play
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.runtimes.tracker import Tracker

MODELS = ("etam_nano", "efficienttam_ti_512x512")
COUNTS = (1, 2, 3, 4)
MOST = 0.6
"""Of the first object's time in `track` that a further object may cost."""
Times = Mapping[int, Sequence[float]]
"""Milliseconds of every frame by number of objects."""


@dataclass(frozen=True)
class Cost:
    """What the objects after the first cost on average, in parts of the first one's time.

    Attributes:
        share: of medians, with `low` and `high` of a 95 % interval.
        of_minima: of the fastest frames.
    """

    share: float
    of_minima: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        return self.share <= MOST


def run(settings: Settings) -> Part:
    """
    Raises:
        EtamError: a bundle cannot be made or used.
    """
    results: dict[str, Any] = {}
    tables, warnings = [], []
    for name in MODELS:
        tracker = load_bundle(settings.bundles.get(name), settings.threads)
        frames = settings.warm_up + settings.frames
        with counted(f"{name}, objects", len(COUNTS) * frames) as advance:
            track, encode, whole = measure(tracker, settings.warm_up, frames, advance)
        found = cost(track)
        results[name] = {
            "track": track,
            "encode": encode,
            "whole": whole,
            "further_object": asdict(found),
            "within": found.within,
        }
        medians = {count: float(np.median(values)) for count, values in track.items()}
        steps = {after: (medians[after] - medians[before]) / medians[COUNTS[0]] for before, after in pairwise(COUNTS)}
        rows = [
            [
                str(count),
                f"{np.median(encode[count]):.1f}",
                f"{medians[count]:.1f}",
                f"{steps[count]:.0%}" if count in steps else "",
                f"{np.median(whole[count]):.1f}",
            ]
            for count in COUNTS
        ]
        title = (
            f"{name} in fp32, medians in ms, n = {settings.frames}; a further object costs {found.share:.0%} of the "
            f"first (95 %: {found.low:.0%} to {found.high:.0%}; of minima {found.of_minima:.0%}); "
            f"{MOST:.0%} are allowed"
        )
        tables.append(table(title, ["objects", "encode", "track", "the last one over the first", "whole frame"], rows))
        if not found.within:
            warnings.append(f"{name}: a further object costs {found.share:.0%} of the first in track, above {MOST:.0%}")
    return Part("Several objects", results, tables, warnings)


def measure(
    tracker: Tracker, warm_up: int, frames: int, advance: Advance
) -> tuple[dict[int, list[float]], dict[int, list[float]], dict[int, list[float]]]:
    """Milliseconds of `track`, of `encode` and of whole frames after the warm-up, by number of objects, interleaved.

    Raises:
        EtamError: a session refuses a frame.
    """
    size = tracker.spec.image_size
    clip = drawn_clip((size, size))
    streams = {count: TimedStream(tracker, count) for count in COUNTS}
    track: dict[int, list[float]] = {count: [] for count in COUNTS}
    encode: dict[int, list[float]] = {count: [] for count in COUNTS}
    whole: dict[int, list[float]] = {count: [] for count in COUNTS}

    def runner(count: int) -> Callable[[PlayedFrame[TimedFrame]], None]:
        def run(played: PlayedFrame[TimedFrame]) -> None:
            # Each stream has another number of objects, so prompts are not planned for all of them together.
            prompts = clip.prompts(count) if played.index == 0 else None
            spent, stages = streams[count].track(played.pixels, prompts)
            if played.index >= warm_up:
                track[count].append(stages["track"])
                encode[count].append(stages["encode"])
                whole[count].append(spent)
            advance(f"{count} interleaved")

        return run

    for _ in play(clip.frames(), PromptPlan([]), [runner(count) for count in COUNTS], frames):
        pass
    return track, encode, whole


def cost(track: Times) -> Cost:
    """Cost of a further object, of times in `track` by number of objects; the interval is a bootstrap over frames."""
    first, last = min(track), max(track)
    pair = np.array([track[first], track[last]])

    def share(times: np.ndarray) -> float:
        one, many = times
        return float((many - one) / ((last - first) * max(one, 1e-9)))

    random = np.random.default_rng(0)
    draws = (pair[:, random.integers(0, pair.shape[1], pair.shape[1])] for _ in range(RESAMPLES))
    drawn = [share(np.median(draw, axis=1)) for draw in draws]
    low, high = (float(value) for value in np.percentile(drawn, INTERVAL))
    return Cost(share(np.median(pair, axis=1)), share(pair.min(axis=1)), low, high)
