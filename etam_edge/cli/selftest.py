"""`etam-edge selftest`: whether a bundle runs on this machine as it should."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.errors import InputError


def selftest(
    bundle: Annotated[Path, typer.Argument(help="Directory of a bundle.")],
    runtime: Annotated[
        str, typer.Option(help="Runtime that is tested: auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")
    ] = "auto",
    write_answers: Annotated[
        Path | None, typer.Option(help="Write what this runtime answers to an .npz file.", show_default="not written")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with the answers in this file.", show_default="not compared")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build engines even if the bundle has some for this machine.")
    ] = False,
    keep_engines: Annotated[
        bool, typer.Option("--keep-engines", help="Write the engines that were built to the bundle, if all is well.")
    ] = False,
    max_objects: Annotated[int, typer.Option(help="Most objects of the engines that are built.")] = 2,
    workspace: Annotated[
        int | None, typer.Option(help="MB that a layer may use while engines are built.", show_default="2048")
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(help="How many kernels TensorRT tries, 0 to 5; builds anew.", show_default="TensorRT's own, 3"),
    ] = None,
    external_tactics: Annotated[
        bool,
        typer.Option(help="Let TensorRT 8.6 use kernels of cuBLAS and cuDNN, which then have to be installed."),
    ] = True,
    frames: Annotated[int, typer.Option(help="Frames that are timed, after 50 others.")] = 200,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="STEP=SECONDS that a kind of step may take; can be repeated.", show_default="by step"),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds for all steps together; the others are skipped.", show_default="none")
    ] = None,
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider: cpu, cuda or auto.")] = "auto",
    device: Annotated[int | None, typer.Option(help="Index of the GPU, from 0.", show_default="0")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for selftest.json and selftest.md.", show_default="out/selftest/BUNDLE"),
    ] = None,
) -> None:
    """Test whether a bundle runs on this machine as it should; exit code 1 if a step fails."""
    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.workflows.selftest import selftest as run_selftest

    with showing_progress() as progress:
        result = run_selftest(
            bundle,
            runtime=runtime,
            provider=provider,
            device=device,
            threads=threads,
            write_answers=write_answers,
            against=against,
            rebuild=rebuild,
            keep_engines=keep_engines,
            max_objects=max_objects,
            workspace=workspace,
            optimization_level=optimization_level,
            external_tactics=external_tactics,
            frames=frames,
            limits=parse_limits(limit or []),
            time_limit=time_limit,
            output=output or Path("out") / "selftest" / bundle.resolve().name,
            progress=progress,
        )
    _show(*result.table())
    out.print(", ".join(map(str, result.files)), markup=False, emoji=False)
    if not result.passed:
        next_command(f"{shlex.join(['etam-edge', 'doctor'])}   (what is on this machine)")
        raise typer.Exit(1)
    next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")


def parse_limits(texts: list[str]) -> dict[str, float]:
    """Seconds by step, from texts of the form STEP=SECONDS.

    Raises:
        InputError: a text is not of that form.
    """
    found = {}
    for text in texts:
        name, _, seconds = text.partition("=")
        try:
            found[name.strip()] = float(seconds)
        except ValueError:
            raise InputError(f"`limit={text}` is not of the form STEP=SECONDS, for example build=300") from None
    return found


def _show(header: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from etam_edge.cli.console import out

    table = Table(box=SIMPLE_HEAD, padding=0)
    for name in header:
        table.add_column(name, justify="right" if name == "s" else "left", overflow="fold", no_wrap=name != "found")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)
