"""`etam-edge sensitivity`: what every region costs and gains when it alone changes its precision."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.errors import InputError
from etam_edge.recipe import FP16, FP32, INT8, REGIONS, Recipe

if TYPE_CHECKING:
    from rich.progress import Progress

    from etam_edge.cli.conversion import Conversion
    from etam_edge.evaluation.sensitivity import RegionCost
    from etam_edge.media.datasets import Clip

TABLE, PLOT = "sensitivity.json", "sensitivity.png"


class Changed(str, Enum):
    FP16 = FP16
    INT8 = INT8


def sensitivity(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    clips: Annotated[
        Path, typer.Option(help="Clips to judge on; those with ground-truth masks give a drop of J&F too.")
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Clips or a recording to take int8 scales from.", show_default="those of --clips"),
    ] = None,
    precision: Annotated[Changed, typer.Option(help="What each region becomes in its turn.")] = Changed.INT8,
    region: Annotated[list[str] | None, typer.Option(help="Only this region; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, where --clips is one clip.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=2, help="Frames of each clip; all without it.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
    output: Annotated[Path, typer.Option(help="Folder for the table and the plot.")] = Path("out/sensitivity"),
) -> None:
    """Rank the regions of a model by the accuracy that they lose and the time that they gain, one at a time."""
    from etam_edge.bundle import Bundle
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.conversion import Conversion
    from etam_edge.evaluation.sensitivity import costs_to_json, plot_costs
    from etam_edge.media.datasets import find_clips
    from etam_edge.plotting import need_matplotlib

    regions = _regions(region)
    need_matplotlib()
    source = Bundle.load(bundle)
    found = find_clips(clips, prompts)
    for clip in found:
        source.check_frame_shape(clip.frames.frame_shape, f"clip {clip.name}")
    given = calibration if calibration is not None else clips
    conversion = Conversion.prepare(source, given, prompts if calibration is None else None, "calibration")
    try:
        costs = measure_costs(conversion, found, regions, precision.value, max_frames, threads)
    finally:
        conversion.close()
    show_costs(costs)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / TABLE).write_text(costs_to_json(costs), encoding="utf-8")
        plot_costs(costs, output / PLOT)
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}); name another folder") from error
    out.print(f"{output / PLOT}, {output / TABLE}", markup=False)
    next_command(f"etam-edge export --precision {precision.value} --calibration CLIPS --region NAME=PRECISION")


def measure_costs(
    conversion: Conversion,
    clips: Sequence[Clip],
    regions: Sequence[str],
    precision: str,
    max_frames: int | None = None,
    threads: int | None = None,
) -> list[RegionCost]:
    """The cost of each region, with a progress bar."""
    from etam_edge.evaluation.check import count_frames
    from etam_edge.evaluation.sensitivity import region_costs
    from etam_edge.runtimes import Tracker

    reference = Tracker.load(conversion.source.path, threads=threads)
    total = len(regions) * sum(count_frames(clips, max_frames))
    with _progress() as bar, tempfile.TemporaryDirectory(prefix="etam-edge-") as folder:
        task = bar.add_task("sensitivity", total=total)
        return region_costs(
            lambda recipe: conversion.tracker(recipe, Path(folder), threads),
            reference,
            clips,
            regions,
            precision,
            max_frames,
            lambda what: bar.update(task, advance=1, description=what),
        )


def choose_regions(
    conversion: Conversion, clips: Sequence[Clip], recipe: Recipe, max_drop: float
) -> tuple[Recipe, dict[str, Any]]:
    """The fastest set of the recipe's int8 regions within a budget, and how it was found, for the manifest.

    Args:
        recipe: the regions to choose from in int8, all others as they shall be.
        max_drop: points of J&F.
    """
    from dataclasses import asdict

    from etam_edge.cli.console import out
    from etam_edge.evaluation.sensitivity import fastest_within
    from etam_edge.runtimes import Tracker

    costs = measure_costs(conversion, clips, recipe.int8_regions, INT8)
    show_costs(costs)
    base = recipe.with_regions(dict.fromkeys(recipe.int8_regions, recipe.float_precision))
    with _progress() as bar, tempfile.TemporaryDirectory(prefix="etam-edge-") as folder:
        task = bar.add_task("mixed", total=None)
        chosen, trials = fastest_within(
            lambda one: conversion.tracker(one, Path(folder)),
            Tracker.load(conversion.source.path),
            clips,
            costs,
            base,
            max_drop,
            step=lambda what: bar.update(task, advance=1, description=what),
        )
    for trial in trials:
        names = ", ".join(trial.regions) or "nothing"
        verdict = "kept" if trial is trials[-1] else "too much"
        out.print(f"int8 in {names}: drop {trial.drop:.2f} points, IoU {trial.mean_iou:.4f}; {verdict}", markup=False)
    return chosen, {"sensitivity": [asdict(cost) for cost in costs], "trials": [asdict(trial) for trial in trials]}


def show_costs(costs: Sequence[RegionCost]) -> None:
    """The ranking as a table."""
    from rich.table import Table

    from etam_edge.cli.console import out

    timed = costs[0].precision == INT8
    columns = ["region", "drop of J&F", "mean IoU", "smallest", "flips", "NaN", *(["ms", "gained"] if timed else [])]
    table = Table(
        *columns,
        title=f"each region alone in {costs[0].precision}, against fp32; least lost first",
        caption="flips: object frames on which sight or the choice of mask changed; NaN: frames; ms: a frame; CPU: "
        + ", int8 as ".join(filter(None, (costs[0].cpu, costs[0].int8_form))),
    )
    for cost in costs:
        drop = "no truth" if cost.drop is None else f"{cost.drop:+.2f}"
        row = [cost.region, drop, f"{cost.mean_iou:.4f}", f"{cost.smallest_iou:.3f}"]
        row += [str(cost.score_flips + cost.choice_flips), str(cost.not_finite)]
        table.add_row(*row, *([f"{cost.milliseconds:.1f}", f"{cost.gain:+.2f}"] if timed else []))
    out.print(table)


def _regions(names: list[str] | None) -> list[str]:
    if not names:
        return list(REGIONS)
    Recipe(dict.fromkeys(names, FP32))  # refuses what is no region
    return list(dict.fromkeys(names))


def _progress() -> Progress:
    from etam_edge.cli.console import frame_progress

    return frame_progress()
