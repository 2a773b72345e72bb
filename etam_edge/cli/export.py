"""`etam-edge export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle


class Precision(str, Enum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    MIXED = "mixed"


class CrossAttentionForm(str, Enum):
    WHOLE = "whole"
    BLOCKS = "blocks"
    FUSED = "fused"


class Pool(str, Enum):
    OWN = "own"
    COARSE = "2x2"


def export(
    model: Annotated[
        str | None,
        typer.Option(help="Model to export; `etam-edge models` lists them.", show_default="etam_nano, in the package"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint file; without it, an official model's is downloaded.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="fp32, fp16, int8, or mixed: the fastest set of int8 regions within --max-drop."),
    ] = Precision.FP32,
    calibration: CalibrationOption = None,
    prompts: PromptsOption = None,
    region: RegionOption = None,
    float_precision: FloatPrecisionOption = None,
    rest: RestOption = None,
    max_drop: MaxDropOption = None,
    clips: ClipsOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the bundle.", show_default="bundles/MODEL-PRECISION")
    ] = None,
    pool: Annotated[
        Pool,
        typer.Option(help="Memory attention: as the variant has it, or 2x2 for an unpooled variant (approximate)."),
    ] = Pool.OWN,
    conditioning_frames: Annotated[
        int,
        typer.Option(help="Prompted frames that an object's memory holds; the reference keeps all of them."),
    ] = 2,
    max_points: Annotated[int, typer.Option(help="Points that one prompt may have; a box takes two.")] = 16,
    frame_size: Annotated[
        str | None,
        typer.Option(
            help="WxH of a camera: the graphs take its frames and give masks of that size, and no other.",
            show_default="any size, resized on the host",
        ),
    ] = None,
    padded_windows: Annotated[
        bool,
        typer.Option(
            "--padded-windows", help="Fill up ViT windows at the image border: more computation in fewer kernels."
        ),
    ] = False,
    cross_attention: Annotated[
        CrossAttentionForm | None,
        typer.Option(
            help="Form of memory cross-attention: whole, in blocks of queries, or fused by TensorRT.",
            show_default="by --target; else whole",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Machine that engines will be built for, which chooses the form of cross-attention."),
    ] = None,
    oldest_tensorrt: OldestTensorrtOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --output.")] = False,
) -> None:
    """Export a checkpoint to a bundle of static ONNX graphs, verified against the PyTorch model."""
    from etam_edge.cli.console import showing_progress
    from etam_edge.cli.frame_size import parse_frame_size
    from etam_edge.cli.precision_options import precision_arguments
    from etam_edge.workflows.export import export as export_checkpoint

    frame_shape = None if frame_size is None else parse_frame_size(frame_size)
    arguments = precision_arguments(float_precision, rest, region)
    with showing_progress() as progress:
        bundle = export_checkpoint(
            model,
            checkpoint,
            output,
            precision=precision.value,
            calibration=calibration,
            prompts=prompts,
            max_drop=max_drop,
            clips=clips,
            pool=pool.value,
            conditioning_frames=conditioning_frames,
            max_points=max_points,
            frame_size=frame_shape,
            padded_windows=padded_windows,
            cross_attention=None if cross_attention is None else cross_attention.value,
            target=target,
            oldest_tensorrt=oldest_tensorrt,
            overwrite=overwrite,
            progress=progress,
            **arguments,
        )
    _report(bundle, name_official=model is None and checkpoint is None)


def _report(bundle: Bundle, name_official: bool) -> None:
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.precision_options import show_bundle, show_precision
    from etam_edge.recipe import FP32
    from etam_edge.workflows.models import SUGGESTED

    manifest = bundle.manifest
    fp32 = manifest.recipe.precision == FP32
    if not fp32:
        show_precision(manifest)
    show_bundle(bundle.path, manifest, bundle.size)
    differ = "differs" if fp32 else "its fp32 graphs differ"
    worst = max(manifest.verification.values())
    out.print(
        f"  {differ} from the PyTorch model by at most {worst:.1e} (relative to the output's root mean square, or to "
        "one if that is smaller)"
    )
    if manifest.sizes.frame_size is not None:
        height, width = manifest.sizes.frame_size
        out.print(f"  takes frames of {width} x {height} pixels, and no other, and gives masks of that size")
    if manifest.approximation:
        out.print(f"  approximation: {manifest.approximation}")
    if name_official:
        official = f"etam-edge export --model {SUGGESTED}"
        out.print(f"  {manifest.model.name} is a small model trained on drawn clips; for real use: {official}")
    if fp32:
        next_command(f"etam-edge track {bundle.path} VIDEO --point X,Y")
    else:
        next_command(f"etam-edge check {bundle.path} --reference FP32_BUNDLE --clips CLIPS")
