"""Which regions of a model can be quantized: each measured alone, and the fastest set within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.recipe import FP32, INT8, REGIONS, Recipe
from etam_edge.runtimes.backends.threads import AUTO, Threads
from etam_edge.workflows.clips import PathLike, check_frame_shapes, load_calibration, load_clips
from etam_edge.workflows.conversion import Conversion
from etam_edge.workflows.progress import ProgressCallback, Stage
from etam_edge.workflows.reports import check_report_folder, write_report

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.calibration.recording import Recording
    from etam_edge.evaluation.sensitivity import RegionCost
    from etam_edge.media.datasets import Clip

TABLE, PLOT = "sensitivity.json", "sensitivity.png"


@dataclass(frozen=True)
class SensitivityResult:
    """The cost of every region.

    Attributes:
        costs: one for each region, the least accuracy lost first.
        files: table and plot that were written.
    """

    costs: list[RegionCost]
    files: tuple[Path, ...] = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """Fields of every cost."""
        return [asdict(cost) for cost in self.costs]


def sensitivity(
    bundle: Bundle | PathLike,
    clips: PathLike | Sequence[Clip],
    precision: str = INT8,
    *,
    calibration: PathLike | Sequence[Clip] | Recording | None = None,
    prompts: PathLike | None = None,
    regions: Sequence[str] | None = None,
    max_frames: int | None = None,
    threads: Threads = AUTO,
    output: PathLike | None = None,
    progress: ProgressCallback | None = None,
) -> SensitivityResult:
    """Measure what each region loses in accuracy and gains in time when it alone changes its precision.

    Args:
        bundle: in fp32.
        clips: that accuracy is measured on. Clips with ground truth give a drop of J&F too.
        precision: "int8" or "fp16".
        calibration: clips or a recording to measure activation ranges on; None for `clips`.
        prompts: JSON file of prompts, where `clips` is the path of a single clip.
        regions: names, or None for all (`etam_edge.recipe.REGIONS`).
        max_frames: of each clip, or None for all.
        threads: CPU threads; "auto" uses one for each physical core.
        output: folder for the table and the plot, or None for none; those of an earlier run move to `history/` in it.
        progress: told of the stages "calibration", "ranges" and "sensitivity".

    Raises:
        InputError: an argument, a clip or the output cannot be used.
        BundleError: the bundle is missing or damaged.
        RuntimeUnavailableError: onnx, ONNX Runtime or OpenCV is not installed. Without matplotlib, a warning is logged
            and there is no plot.
    """
    from etam_edge.bundle import Bundle
    from etam_edge.evaluation.sensitivity import costs_to_json, plot_costs
    from etam_edge.plotting import can_plot

    names = list(REGIONS) if not regions else list(dict.fromkeys(regions))
    Recipe(dict.fromkeys(names, FP32))  # raises for an unknown region
    folder = None if output is None else Path(output)
    if folder is not None:
        check_report_folder(folder)
    source = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    found = load_clips(clips, prompts)
    check_frame_shapes(found, source.manifest.sizes, str(source.path))
    given = found if calibration is None else load_calibration(calibration)
    with Conversion(source, given, progress=progress) as conversion:
        costs = measure_costs(conversion, found, names, precision, max_frames, threads, progress)
    if folder is None:
        return SensitivityResult(costs)
    files: dict[str, str | bytes] = {TABLE: costs_to_json(costs)}
    if can_plot():
        files[PLOT] = plot_costs(costs)
    return SensitivityResult(costs, write_report(folder, files))


def measure_costs(
    conversion: Conversion,
    clips: Sequence[Clip],
    regions: Sequence[str],
    precision: str,
    max_frames: int | None = None,
    threads: Threads = AUTO,
    progress: ProgressCallback | None = None,
) -> list[RegionCost]:
    """The cost of each region alone in a precision, all others in fp32; the least accuracy lost first."""
    from etam_edge.evaluation.clips import count_frames
    from etam_edge.evaluation.sensitivity import region_costs
    from etam_edge.runtimes import Tracker

    reference = Tracker.load(conversion.source.path, threads=threads)
    frames = Stage(progress, "sensitivity", len(regions) * sum(count_frames(clips, max_frames)), "frame")
    return region_costs(
        lambda recipe: conversion.tracker(recipe, threads),
        reference,
        clips,
        regions,
        precision,
        max_frames,
        frames.step,
    )


def choose_regions(
    conversion: Conversion,
    clips: Sequence[Clip],
    recipe: Recipe,
    max_drop: float,
    progress: ProgressCallback | None = None,
) -> tuple[Recipe, dict[str, Any]]:
    """The fastest set of a recipe's int8 regions within a budget.

    Args:
        conversion: of the fp32 bundle.
        clips: that accuracy is measured on, at least one with ground truth.
        recipe: has the regions to choose from in int8, and all others as they shall be.
        max_drop: points of J&F that may be lost against fp32.
        progress: told of the stages "sensitivity" and "mixed".

    Returns:
        the recipe; and for the manifest, the costs of all regions and the sets that were tried, the last one kept.

    Raises:
        InputError: without any int8 region the drop is still above the budget.
    """
    from etam_edge.evaluation.sensitivity import fastest_within
    from etam_edge.runtimes import Tracker

    costs = measure_costs(conversion, clips, recipe.int8_regions, INT8, progress=progress)
    frames = Stage(progress, "mixed", None, "frame")
    chosen, trials = fastest_within(
        conversion.tracker,
        Tracker.load(conversion.source.path),
        clips,
        costs,
        recipe.with_regions(dict.fromkeys(recipe.int8_regions, recipe.float_precision)),
        max_drop,
        step=frames.step,
    )
    return chosen, {"sensitivity": [asdict(cost) for cost in costs], "trials": [asdict(trial) for trial in trials]}
