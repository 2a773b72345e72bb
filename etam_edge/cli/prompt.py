"""`etam-edge prompt`: select objects of a video on a page, and save them for `track --prompts`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from etam_edge.cli.threads import THREADS


def prompt(
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    source: Annotated[str, typer.Argument(help="Video file or folder of images.")],
    output: Annotated[Path, typer.Option(help="JSON file for the prompts.")] = Path("prompts.json"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it is there.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts to begin with.")] = None,
    serve: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the page.")] = "127.0.0.1:8642",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
) -> None:
    """Select objects of a video on a page in the browser, see their masks, and write the prompts to a file."""
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.live import show_start
    from etam_edge.media.prompt_files import plan_file
    from etam_edge.workflows.live import find_prompts

    result = find_prompts(
        bundle,
        source,
        plan_file(prompts) if prompts is not None else None,
        output=output,
        overwrite=overwrite,
        serve=serve,
        runtime=runtime,
        threads=threads,
        on_start=show_start,
    )
    if result.failure is not None:
        raise result.failure
    if not result.kept:
        out.print("no object was selected; nothing is written")
        return
    out.print(f"  {result.kept[0]}", markup=False, emoji=False)
    words = ["etam-edge", "track", str(bundle), source, "--prompts", str(result.kept[0]), "--corrections-condition"]
    next_command(shlex.join(words))
