"""Sensitivity: the loss of accuracy and the gain of time when a single region changes its precision."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etam_edge.cpu import cpu_kind
from etam_edge.errors import InputError
from etam_edge.evaluation.check import Check, check
from etam_edge.media.datasets import Clip
from etam_edge.plotting import need_matplotlib
from etam_edge.recipe import FP16, FP32, Recipe
from etam_edge.runtimes.tracker import Tracker

MIN_GAIN = 0.01
"""Smallest gain, as a share of a frame's time, for which a region is quantized. Less is noise."""
Build = Callable[[Recipe], Tracker]
"""Writes the bundle of a recipe and loads it."""
Step = Callable[[str], None]
"""Called with the name of the region that is tried, after every frame."""


@dataclass(frozen=True)
class RegionCost:
    """A model with one region in another precision and the others in fp32, compared with fp32.

    Attributes:
        region: name of the region.
        precision: of this region.
        drop: drop of J&F in points; None if the clips have no ground-truth masks.
        mean_iou, smallest_iou: IoU with the masks of fp32.
        score_flips, choice_flips: number of object frames on which an object became visible or not visible, or another
            of the decoder's masks was chosen.
        not_finite: number of frames whose outputs were NaN or infinite.
        milliseconds, reference_milliseconds: median times of a frame. Both models were interleaved.
        cpu: kind of the CPU that measured it, with its instruction set.
        int8_form: how int8 products were computed ("uint8 x int8", say); None without int8 or not on a CPU.
    """

    region: str
    precision: str
    drop: float | None
    mean_iou: float
    smallest_iou: float
    score_flips: int
    choice_flips: int
    not_finite: int
    milliseconds: float
    reference_milliseconds: float
    cpu: str = ""
    int8_form: str | None = None

    @property
    def lost(self) -> float:
        """Share of the mask that changed. Regions are ranked by it, because it has less noise than J&F."""
        return 1.0 - self.mean_iou

    @property
    def gain(self) -> float:
        """Milliseconds that a frame is faster; negative if it is slower."""
        return self.reference_milliseconds - self.milliseconds


def region_costs(
    build: Build,
    reference: Tracker,
    clips: Sequence[Clip],
    regions: Sequence[str],
    precision: str,
    max_frames: int | None = None,
    step: Step | None = None,
) -> list[RegionCost]:
    """Measure the cost of each region, and return the costs, the least first.

    Args:
        build: writes the bundle of a recipe and loads it.
        reference: tracker in fp32.
        precision: of the region that is measured.
        max_frames: maximum number of frames of a clip; None for all.

    Raises:
        InputError: there is nothing to compare on.
    """
    costs = []
    for region in regions:
        recipe = Recipe({region: precision}, float_precision=FP32)
        candidate = build(recipe)
        result = _checked(candidate, reference, clips, region, max_frames, step)
        costs.append(_cost(region, precision, result, candidate.int8_form))
    return sorted(costs, key=lambda cost: (cost.not_finite > 0, cost.lost))


@dataclass(frozen=True)
class Trial:
    """A set of int8 regions that was measured.

    Attributes:
        regions: names of the regions.
        drop: drop of J&F in points.
        mean_iou: IoU with the masks of fp32.
    """

    regions: tuple[str, ...]
    drop: float
    mean_iou: float


def fastest_within(
    build: Build,
    reference: Tracker,
    clips: Sequence[Clip],
    costs: Sequence[RegionCost],
    base: Recipe,
    max_drop: float,
    max_frames: int | None = None,
    step: Step | None = None,
) -> tuple[Recipe, list[Trial]]:
    """Find the fastest set of int8 regions whose drop of J&F is at most `max_drop`.

    The first set has all regions that gain time. While the measured drop is too large, the region that loses most
    accuracy for the time that it gains is removed.

    Args:
        costs: cost of each region in int8.
        base: recipe of the regions that are not int8.
        max_drop: in points.

    Returns:
        the recipe, and the sets that were measured, the chosen one last.

    Raises:
        InputError: the clips have no ground-truth masks, or `base` without int8 drops more than `max_drop`.
    """
    chosen = [cost for cost in costs if cost.gain > MIN_GAIN * cost.reference_milliseconds and not cost.not_finite]
    trials: list[Trial] = []
    while True:
        names = tuple(cost.region for cost in chosen)
        recipe = base.with_regions(dict.fromkeys(names, "int8"))
        result = _checked(build(recipe), reference, clips, "mixed", max_frames, step).comparison
        if result.overall.drop is None:
            raise InputError(
                "`max_drop` needs ground-truth masks, and the clips have none; give clips with annotations"
            )
        trials.append(Trial(names, result.overall.drop.j_and_f, result.overall.mean_iou))
        if result.overall.drop.j_and_f <= max_drop and not result.candidate_not_finite:
            return recipe, trials
        if not chosen:
            raise InputError(
                f"even without int8 the drop is {trials[-1].drop:.2f} points, and `max_drop` is {max_drop:g}; "
                'allow more, or keep what is not quantized in fp32 with `float_precision="fp32"`'
            )
        chosen.remove(max(chosen, key=lambda cost: cost.lost / cost.gain))


def _checked(
    candidate: Tracker,
    reference: Tracker,
    clips: Sequence[Clip],
    what: str,
    max_frames: int | None,
    step: Step | None,
) -> Check:
    return check(candidate, reference, clips, max_frames, None if step is None else lambda _: step(what))


def _cost(region: str, precision: str, result: Check, int8_form: str | None) -> RegionCost:
    comparison = result.comparison
    figures = comparison.overall
    ours, theirs = comparison.candidate_latency, comparison.reference_latency
    if ours is None or theirs is None:
        raise InputError("no frame of the clips can be timed; give clips with frames after the prompt")
    return RegionCost(
        region=region,
        precision=precision,
        drop=None if figures.drop is None else figures.drop.j_and_f,
        mean_iou=figures.mean_iou,
        smallest_iou=figures.worst.iou,
        score_flips=figures.score_flips.count,
        choice_flips=figures.choice_flips.count,
        not_finite=comparison.candidate_not_finite,
        milliseconds=ours.median,
        reference_milliseconds=theirs.median,
        cpu=cpu_kind(),
        int8_form=int8_form,
    )


def costs_to_json(costs: Sequence[RegionCost]) -> str:
    rows: list[dict[str, Any]] = [{**asdict(cost), "gain": cost.gain} for cost in costs]
    return json.dumps(rows, indent=1) + "\n"


def plot_costs(costs: Sequence[RegionCost]) -> bytes:
    """A plot of the accuracy lost and the time gained by each region, as a PNG.

    Raises:
        RuntimeUnavailableError: matplotlib is not installed.
    """
    figure_class = need_matplotlib()
    timed = costs[0].precision != FP16
    figure = figure_class(figsize=(11 if timed else 7, 0.4 * len(costs) + 1.6), layout="constrained")
    axes = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)
    names = [cost.region for cost in costs]
    lost, *others = axes[0]
    lost.barh(names, [100 * cost.lost for cost in costs], color="#c44e52")
    lost.set_xlabel(f"mask lost with {costs[0].precision} there alone: 100 (1 - mean IoU to fp32)")
    lost.invert_yaxis()
    lost.grid(axis="x", alpha=0.3)
    for axis in others:
        axis.barh(names, [cost.gain for cost in costs], color="#4c72b0")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xlabel(f"milliseconds gained a frame, {costs[0].cpu or 'on this machine'}")
        axis.grid(axis="x", alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
