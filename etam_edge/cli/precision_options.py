"""Options of `export` and `quantize`, and what both print about a precision."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.recipe import FP16, FP32, MAX_FLOAT16, parse_regions

if TYPE_CHECKING:
    from etam_edge.bundle import Manifest
    from etam_edge.bundle.summaries import Calibration


class FloatPrecision(str, Enum):
    FP16 = "fp16"
    FP32 = "fp32"


CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        help="Clips like those that the model will see, or a recording of `etam-edge record`; needed by int8 and "
        "mixed.",
        show_default="clips in the package, to check the range of fp16",
    ),
]
PromptsOption = Annotated[Path | None, typer.Option(help="JSON file of prompts, if --calibration is a single clip.")]
RegionOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=fp32|fp16|int8 (or tf32 for mask_decoder): another precision for one region; repeatable."),
]
FloatPrecisionOption = Annotated[
    FloatPrecision | None,
    typer.Option(
        help="Precision of what int8 and mixed leave unquantized: fp16 for a GPU, fp32 for a CPU.", show_default="fp16"
    ),
]
RestOption = Annotated[FloatPrecision | None, typer.Option("--rest", hidden=True)]
OldestTensorrtOption = Annotated[
    str | None,
    typer.Option(
        help="Oldest TensorRT that shall read the bundle: from 10 on, int8 has fp16 scales, which are faster.",
        show_default="8.6, or that of --target",
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(help="Points of J&F that mixed may lose against fp32.", show_default="0.5, with mixed"),
]
ClipsOption = Annotated[
    Path | None,
    typer.Option(
        help="Clips with ground-truth masks to measure the drop of mixed on.", show_default="those of --calibration"
    ),
]


def precision_arguments(
    float_precision: FloatPrecision | None, rest: FloatPrecision | None, region: list[str] | None
) -> dict[str, Any]:
    """Arguments `float_precision` and `regions` of a workflow; `--rest` is the former name of `--float-precision`.

    Raises:
        InputError: a region is not of the form NAME=PRECISION, or is given twice.
    """
    if rest is not None:
        from etam_edge.cli.console import warn

        warn("--rest is now called --float-precision; the old name will be removed in the next release")
    chosen = float_precision or rest or FloatPrecision.FP16
    return {"float_precision": chosen.value, "regions": parse_regions(region or [])}


def show_precision(manifest: Manifest) -> None:
    """Print what a precision rests on: the range check of fp16, and what mixed measured and chose."""
    from etam_edge.cli.console import out
    from etam_edge.cli.sensitivity import show_costs

    calibration, recipe = manifest.calibration, manifest.recipe
    if calibration is None:
        return
    if calibration.sensitivity:
        show_costs(calibration.sensitivity)
    trials = calibration.trials or []
    for trial in trials:
        names = ", ".join(trial["regions"]) or "no region"
        verdict = "kept" if trial is trials[-1] else "above the limit"
        out.print(f"int8 in {names}: drop {trial['drop']:.2f} points, IoU {trial['mean_iou']:.4f}; {verdict}")
    if any(recipe.float_type(region) == FP16 for region in recipe.regions):
        _show_ranges(calibration, manifest)


def _show_ranges(calibration: Calibration, manifest: Manifest) -> None:
    from rich.table import Table

    from etam_edge.cli.console import name_column, out

    table = Table(
        name_column("region", calibration.largest),
        "largest activation",
        "of fp16's 65504",
        "float precision",
        title="fp16 range check",
    )
    for region, one in calibration.largest.items():
        share = f"{100 * one.value / MAX_FLOAT16:.2g} %"
        table.add_row(region, f"{one.value:.4g}", share, manifest.recipe.float_type(region))
    out.print(table)


def recipe_lines(manifest: Manifest) -> list[str]:
    """Which regions have which precision, on which clips that rests, and what was not quantized."""
    by_precision: dict[str, list[str]] = {}
    for name, precision in manifest.recipe.regions.items():
        by_precision.setdefault(precision, []).append(name)
    lines = [f"{precision}: {', '.join(names)}" for precision, names in by_precision.items()]
    if manifest.recipe.int8_regions:
        lines.append(f"float precision: {manifest.recipe.float_precision}")
    calibration = manifest.calibration
    if calibration and calibration.clips:
        clips = ", ".join(clip.name for clip in calibration.clips)
        purpose = "calibrated" if manifest.recipe.int8_regions else "fp16 range checked"
        lines.append(f"{purpose} on {calibration.frames} frames of {clips}")
    if calibration and calibration.left_float:
        lines.append(f"not quantized, though their region is int8: {', '.join(calibration.left_float)}")
    return lines


def show_bundle(path: Path, manifest: Manifest, size: int) -> None:
    """Print what was written: model, precision, size and recipe."""
    from etam_edge.cli.console import megabytes, out

    out.print(
        f"{path}: {manifest.model.name}, {manifest.precision}, {len(manifest.graphs)} graphs, {megabytes(size)}",
    )
    if manifest.recipe.precision != FP32:
        for line in recipe_lines(manifest):
            out.print(f"  {line}")
