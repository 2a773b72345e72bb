"""`etam-edge quantize`: an fp32 bundle becomes one of another precision."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from etam_edge.cli.precision_options import (
    CalibrationOption,
    ClipsOption,
    FloatPrecisionOption,
    MaxDropOption,
    OldestTensorrtOption,
    PromptsOption,
    RegionOption,
    RestOption,
)


class QuantizedPrecision(str, Enum):
    INT8 = "int8"
    FP16 = "fp16"
    MIXED = "mixed"


def quantize(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    calibration: CalibrationOption = None,
    precision: Annotated[
        QuantizedPrecision,
        typer.Option(help="int8, fp16, or mixed: the fastest set of int8 regions within --max-drop."),
    ] = QuantizedPrecision.INT8,
    prompts: PromptsOption = None,
    region: RegionOption = None,
    float_precision: FloatPrecisionOption = None,
    rest: RestOption = None,
    max_drop: MaxDropOption = None,
    clips: ClipsOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory of the new bundle.", show_default="beside BUNDLE, named after the precision"),
    ] = None,
    oldest_tensorrt: OldestTensorrtOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --output.")] = False,
) -> None:
    """Make an int8, fp16 or mixed bundle from an fp32 bundle; needs onnx, but no checkpoint and no PyTorch."""
    from etam_edge.cli.console import next_command, showing_progress
    from etam_edge.cli.precision_options import precision_arguments, show_bundle, show_precision
    from etam_edge.workflows.quantize import OLDEST_TENSORRT
    from etam_edge.workflows.quantize import quantize as quantize_bundle

    arguments = precision_arguments(float_precision, rest, region)
    with showing_progress() as progress:
        written = quantize_bundle(
            bundle,
            calibration,
            precision.value,
            output,
            prompts=prompts,
            max_drop=max_drop,
            clips=clips,
            oldest_tensorrt=oldest_tensorrt or OLDEST_TENSORRT,
            overwrite=overwrite,
            progress=progress,
            **arguments,
        )
    show_precision(written.manifest)
    show_bundle(written.path, written.manifest, written.size)
    check = ["etam-edge", "check", str(written.path), "--reference", str(bundle), "--clips"]
    next_command(f"{shlex.join(check)} CLIPS")
