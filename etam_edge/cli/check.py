"""`etam-edge check`: what a precision, a runtime or a change of the model costs in accuracy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.errors import InputError

if TYPE_CHECKING:
    from etam_edge.workflows.check import CheckResult


def check(
    bundle: Annotated[Path, typer.Argument(help="Bundle that is judged.")],
    reference: Annotated[Path, typer.Option(help="Bundle that it is compared with, usually the fp32 one.")],
    clips: Annotated[
        Path | None,
        typer.Option(help="Clips in DAVIS layout, or a folder of videos or image folders with prompts files."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Single images with ground-truth masks, in place of --clips.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO JSON file or folder of label images of --images, if they are elsewhere.")
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="Number of images, evenly spaced.", show_default="all images")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, if --clips is a single clip.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of J&F that may be lost.", show_default="1.0, if there are ground-truth masks"),
    ] = None,
    min_iou: Annotated[
        float | None, typer.Option(help="Smallest IoU with the reference's masks that any frame may have, 0 to 1.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=2, help="Frames of each clip.", show_default="all frames")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="checks/BUNDLE-against-REFERENCE")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime of BUNDLE: auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")
    ] = "auto",
    reference_runtime: Annotated[str, typer.Option(help="Runtime of the reference.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider of BUNDLE: cpu, cuda or auto.")] = "auto",
    reference_provider: Annotated[str, typer.Option(help="ONNX Runtime provider of the reference.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each.", **THREADS)] = None,
    round_fp16: Annotated[
        bool, typer.Option(help="On a CPU, which computes fp16 in fp32, round after every operation as a GPU does.")
    ] = True,
) -> None:
    """Compare a bundle with a reference over clips or images; exit code 1 if it lost more than allowed."""
    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.workflows.busy import warn_if_busy
    from etam_edge.workflows.check import check as check_bundle

    target = output or Path("checks") / f"{bundle.resolve().name}-against-{reference.resolve().name}"
    warn_if_busy()
    if images is not None:
        if clips is not None:
            raise InputError("give either `clips=DIR` or `images=DIR`")
        _reject_options(prompts=prompts, max_frames=max_frames)
        _check_images(
            bundle,
            reference,
            images,
            annotations,
            max_drop=max_drop,
            min_iou=min_iou,
            max_images=max_images,
            output=target,
            runtime=runtime,
            reference_runtime=reference_runtime,
            provider=provider,
            reference_provider=reference_provider,
            threads=threads,
            round_fp16=round_fp16,
        )
        return
    if clips is None:
        raise InputError("give either `clips=DIR` or `images=DIR`")
    _reject_options(annotations=annotations, max_images=max_images)
    with showing_progress() as progress:
        result = check_bundle(
            bundle,
            reference,
            clips,
            prompts=prompts,
            max_drop=max_drop,
            min_iou=min_iou,
            max_frames=max_frames,
            output=target,
            runtime=runtime,
            reference_runtime=reference_runtime,
            provider=provider,
            reference_provider=reference_provider,
            threads=threads,
            round_fp16=round_fp16,
            progress=progress,
        )
    show_check(result)
    out.print(f"report: {result.report}")
    if result.passed:
        next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")
        return
    next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (which precision every region has)")
    raise typer.Exit(1)


def _reject_options(**given: object) -> None:
    """
    Raises:
        InputError: an option was given that belongs to the other kind of check.
    """
    for name, value in given.items():
        if value is not None:
            raise InputError(f"`{name}` belongs to the other kind of check; leave it out")


def _check_images(bundle: Path, reference: Path, images: Path, annotations: Path | None, **options: Any) -> None:
    """Compare over images, print the figures, and exit with 1 where too much was lost."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.workflows.check_images import check_images

    with showing_progress() as progress:
        result = check_images(bundle, reference, images, annotations, progress=progress, **options)
    comparison = result.comparison
    table = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("prompt", "objects", "IoU", "reference", "F", "reference", "drop", "IoU to reference", "worst"):
        table.add_column(name, justify="right" if name != "prompt" else "left")
    for kind in ("click", "box", None):
        means = comparison.means(kind)
        table.add_row(
            kind or "both",
            str(means.objects),
            *(f"{value:.3f}" for value in (means.iou, means.reference_iou, means.boundary, means.reference_boundary)),
            f"{means.drop:.2f}",
            f"{means.agreement:.3f}",
            f"{means.worst_agreement:.3f}",
        )
    out.print(table)
    times = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in comparison.seconds.items())
    out.print(f"{comparison.images} images; median time of an image: {times}")
    for one in comparison.worst():
        text = f"  {one.image} object {one.number} ({one.kind}): lost {one.drop:.1f} points, IoU {one.iou:.3f}"
        out.print(f"{text}, reference {one.reference_iou:.3f}", markup=False, emoji=False)
    out.print(result.sentence, markup=False)
    out.print(f"figures: {result.report}", markup=False)
    if result.passed:
        next_command(f"{shlex.join(['etam-edge', 'segment', str(bundle)])} IMAGES --everything")
        return
    next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (which precision every region has)")
    raise typer.Exit(1)


def show_check(result: CheckResult) -> None:
    """Print the comparison clip by clip, what else was found, and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from etam_edge.cli.console import out, print_facts

    header, rows, overall = result.table()
    table = Table(caption=result.caption(), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*overall)
    out.print(table)
    print_facts(result.findings())
    out.print(result.verdict.sentence)
