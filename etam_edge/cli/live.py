"""`etam-edge live`: track a camera or stream until it is stopped, with a page, a window or outputs to follow it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.cli.options import optional_value
from etam_edge.cli.source_options import (
    SOURCE_HELP,
    DepthRangeOption,
    PixelFormatOption,
    SizeOption,
    source_options,
)
from etam_edge.cli.threads import THREADS

if TYPE_CHECKING:
    from rich.console import Console

    from etam_edge.workflows.live import LiveReport, LiveResult, LiveStart

VIEWER = "viewer"
"""Value of --rerun that stands for the viewer that runs on this machine."""
# A host without a port is left to the arguments, which may look like one. So is a camera number, which is no port.
optional_value("--serve", "127.0.0.1:8642", r"[^/\s]*:[^/\s]*|\d{4,5}")
optional_value("--rerun", VIEWER, r".*\.rrd")


def live(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    point: Annotated[list[str] | None, typer.Option(help="X,Y on the object, first frame; repeatable.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="X,Y off the object; repeatable.")] = None,
    box: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1 around the object, first frame.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of the object, first frame; a palette may hold several.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file: several objects, frames, corrections.")] = None,
    scores: Annotated[Path | None, typer.Option(help="JSON lines file of scores; - is standard output.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for PNG masks in DAVIS palette layout.")] = None,
    output: Annotated[Path | None, typer.Option(help="Overlay video, .mp4.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that are there, and remove earlier masks.")
    ] = False,
    serve: Annotated[
        str | None, typer.Option(metavar="[HOST:PORT]", help="Serve a page to watch and to select objects.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open a window with the masks.")] = False,
    rerun: Annotated[
        str | None, typer.Option(metavar="[F.rrd]", help="Log to the Rerun viewer that runs here, or to a file.")
    ] = None,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Skip no frame: the source waits for the tracker.")
    ] = False,
    queue: Annotated[int, typer.Option(min=1, help="Frames that wait for the tracker before one is skipped.")] = 1,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many tracked frames.")] = None,
    reconnect: Annotated[
        bool, typer.Option("--reconnect", help="Open a source that breaks again; objects stay.")
    ] = False,
    on_new_size: Annotated[
        str, typer.Option(help="Where frames change their size: stop, or restart without objects.")
    ] = "stop",
    depth_range: DepthRangeOption = None,
    size: SizeOption = None,
    pixel_format: PixelFormatOption = None,
    resize: Annotated[
        str, typer.Option(help="How the host resizes: exact, as the reference does, or fast, with OpenCV.")
    ] = "exact",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider: cpu, cuda or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
) -> None:
    """Track a live source, newest frame first, until it ends or Ctrl-C. Select objects on a page with --serve."""
    from etam_edge.cli.console import err, next_command, out
    from etam_edge.media.prompt_files import plan_prompts
    from etam_edge.workflows.live import live as run_live

    reading = source_options(depth_range=depth_range, size=size, pixel_format=pixel_format)
    prompted = bool(point or negative_point or box or mask or prompts)
    plan = plan_prompts(point or [], negative_point or [], box, mask, prompts) if prompted or serve is None else None
    # Lines of scores on standard output are for another program to read.
    console = err if scores is not None and str(scores) in ("-", "/dev/stdout") else out
    result = run_live(
        bundle,
        source,
        plan,
        output=output,
        masks=masks,
        scores=scores,
        overwrite=overwrite,
        serve=serve,
        show=show,
        rerun=rerun == VIEWER if rerun in (None, VIEWER) else Path(str(rerun)),
        every_frame=every_frame,
        queue=queue,
        max_frames=max_frames,
        reconnect=reconnect,
        on_new_size=on_new_size,
        depth_range=reading.depth_range,
        size=reading.size,
        pixel_format=reading.pixel_format,
        runtime=runtime,
        provider=provider,
        threads=threads,
        resize=resize,
        on_start=show_start,
        on_report=_show_report,
    )
    show_end(result, console)
    if result.failure is not None:
        raise result.failure
    if console is out and plan is not None and not result.has_prompts:
        next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (sizes, precision, origin of the bundle)")


def show_start(start: LiveStart) -> None:
    """Where the source and the page are, on standard error."""
    from etam_edge.cli.console import err

    height, width = start.frame_shape
    err.print(f"{start.source}: {width} x {height} pixels, {start.runtime}; Ctrl-C ends", markup=False, emoji=False)
    if start.url is not None:
        err.print(f"page: {start.url}", markup=False, emoji=False)
    if start.needs_token:
        err.print(
            "  other machines can reach this page: whoever has this address, with its token, sees the camera and can "
            "change what is tracked. It is not encrypted.",
            markup=False,
        )


def _show_report(report: LiveReport) -> None:
    from etam_edge.cli import options
    from etam_edge.cli.console import err

    if not options.is_quiet:
        err.print(str(report), markup=False)


def show_end(result: LiveResult, console: Console) -> None:
    """The figures of the run, what was written, and what was lost."""
    console.print(f"{'stopped; ' if result.interrupted else ''}{result.report}", markup=False)
    for path in result.kept:
        console.print(f"  {path}", markup=False, emoji=False)
    shortfall = result.ending.shortfall()
    if shortfall:
        console.print(f"  {shortfall}", markup=False, emoji=False)
