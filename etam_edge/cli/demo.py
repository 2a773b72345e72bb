"""`etam-edge demo`: from a checkpoint to tracked videos in three precisions, with the commands a user would type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.errors import EtamError
from etam_edge.recipe import FP16, FP32, INT8

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.workflows.check import CheckResult

MAX_DROP = {FP16: 0.1, INT8: 1.0}
"""Points of J&F that a precision may lose here."""
VIDEOS = {"chair": "chair.mp4", "crossing": "crossing"}
"""Clips of the package, and their frames."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for bundles, videos and reports.")] = Path("out/demo"),
    model: Annotated[
        str | None,
        typer.Option(help="Model to show; `etam-edge models` lists them.", show_default="etam_nano, in the package"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint file of that model.")] = None,
) -> None:
    """Export a model in fp32, fp16 and int8, track two clips with each, and check the accuracy. Needs no network."""
    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.cli.track import track
    from etam_edge.workflows.busy import warn_if_busy
    from etam_edge.workflows.demo import prepare_demo
    from etam_edge.workflows.export import export
    from etam_edge.workflows.quantize import quantize

    warn_if_busy()
    clips = output / "clips"
    prepare_demo(output, clips)
    bundles: dict[str, Bundle] = {}

    _show("export", model=model, checkpoint=checkpoint, output=output / FP32, overwrite=True)
    with showing_progress() as progress:
        bundles[FP32] = export(model, checkpoint, output / FP32, overwrite=True, progress=progress)
    # int8 is calibrated on the drawn clip and checked on the real one too. A CPU gains nothing from fp16 beside it.
    calibration = {"calibration": clips / "crossing", "prompts": clips / "crossing.json", "float_precision": FP32}
    options: dict[str, dict[str, Any]] = {FP16: {}, INT8: calibration}
    for precision, given in options.items():
        _show("quantize", output / FP32, precision=precision, **given, output=output / precision, overwrite=True)
        with showing_progress() as progress:
            bundles[precision] = quantize(
                bundles[FP32],
                precision=precision,
                output=output / precision,
                overwrite=True,
                progress=progress,
                **given,
            )

    overlays = []
    for precision in bundles:
        for name, source in VIDEOS.items():
            overlay = output / f"{name}_{precision}.mp4"
            tracked: dict[str, Any] = {"prompts": clips / f"{name}.json", "output": overlay, "overwrite": True}
            _show("track", output / precision, clips / source, **tracked)
            track(output / precision, str(clips / source), **tracked)
            overlays.append(overlay)
    checks = {precision: _check(bundles, precision, clips, output / f"check_{precision}") for precision in MAX_DROP}

    out.print()
    _table(bundles, checks)
    out.print("Overlay videos:")
    for overlay in overlays:
        out.print(f"  {overlay}")
    out.print("Reports:")
    for result in checks.values():
        out.print(f"  {result.report}")
    next_command(f"etam-edge track {shlex.quote(str(output / FP32))} YOUR_VIDEO.mp4 --box X0,Y0,X1,Y1")


def _check(bundles: dict[str, Bundle], precision: str, clips: Path, output: Path) -> CheckResult:
    """The check of a precision against fp32. A drop beyond the limit is shown, and does not end the demo."""
    from etam_edge.cli.check import show_check
    from etam_edge.cli.console import showing_progress
    from etam_edge.workflows.check import check

    candidate, reference = bundles[precision], bundles[FP32]
    options: dict[str, Any] = {"max_drop": MAX_DROP[precision], "output": output}
    _show("check", candidate.path, reference=reference.path, clips=clips, **options)
    with showing_progress() as progress:
        result = check(candidate, reference, clips, progress=progress, **options)
    show_check(result)
    return result


def _show(*words: object, **options: object) -> None:
    """Print a command as a user would type it. An option that is True is a flag; one that is None is left out."""
    from etam_edge.cli.console import out

    texts = [str(word) for word in words]
    for name, value in options.items():
        if value is not None:
            texts += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    out.print(f"\n$ etam-edge {shlex.join(texts)}")


def _table(bundles: dict[str, Bundle], checks: dict[str, CheckResult]) -> None:
    """What each precision costs and gains."""
    from rich.table import Table

    from etam_edge.cli.console import megabytes, out

    table = Table(
        "precision",
        "size",
        "ms a frame",
        "J&F",
        "drop",
        "IoU to fp32",
        title="cost of each precision",
        caption="J&F: how well masks and outlines fit the ground truth, 100 is perfect; drop: points lost against "
        "fp32, negative if it gained. Two objects a frame on this CPU, which gains from int8; fp16 is for GPUs.",
        caption_justify="left",
    )
    for precision, bundle in bundles.items():
        # fp32 is measured in both checks; the figures of the last one are shown.
        comparison = checks[INT8 if precision == FP32 else precision].comparison
        overall = comparison.overall
        accuracy, latency = (
            (overall.reference, comparison.reference_latency)
            if precision == FP32
            else (overall.candidate, comparison.candidate_latency)
        )
        if accuracy is None or latency is None or overall.drop is None:
            raise EtamError("the clips of this package have no ground truth here; install etam-edge again")
        drop, iou = ("", "") if precision == FP32 else (f"{overall.drop.j_and_f:.2f}", f"{overall.mean_iou:.4f}")
        row = [megabytes(bundle.size), f"{latency.median:.1f}", f"{100 * accuracy.j_and_f:.1f}", drop, iou]
        table.add_row(precision, *row)
    out.print(table)
