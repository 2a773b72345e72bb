"""`etam-edge build`: engines from a bundle, on the machine that will run them."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.bundle.engines import TENSORRT, TENSORRT_RTX
from etam_edge.bundle.targets import TARGETS, THIS_MACHINE

if TYPE_CHECKING:
    from etam_edge.workflows.build import BuildResult


class BuildRuntime(str, Enum):
    TENSORRT = TENSORRT
    TENSORRT_RTX = TENSORRT_RTX


def _target_help() -> str:
    rows = []
    for target in TARGETS.values():
        capability = "" if target.compute_capability is None else f" ({'.'.join(map(str, target.compute_capability))})"
        rows.append(f"{target.name}: {target.device}{capability}")
    return f"Machine that will run the engines. {'; '.join(rows)}."


def build(
    bundle: Annotated[Path, typer.Argument(help="Directory of a bundle.")],
    target: Annotated[str, typer.Option(help=_target_help())] = THIS_MACHINE,
    runtime: Annotated[
        BuildRuntime,
        typer.Option(help="tensorrt builds on the GPU that runs; tensorrt-rtx compiles for a target with no GPU here."),
    ] = BuildRuntime.TENSORRT,
    max_objects: Annotated[
        int | None,
        typer.Option(
            help="Most objects that are tracked at a time.",
            show_default="1 or 2 where GPU and CPU share memory, else 8",
        ),
    ] = None,
    opt_objects: Annotated[int, typer.Option(help="Number of objects that kernels are chosen for.")] = 1,
    workspace: Annotated[
        int | None, typer.Option(help="MB that a layer may use, at most.", show_default="by target")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="How many kernels TensorRT tries, 0 to 5.", show_default="TensorRT's own, 3")
    ] = None,
    external_tactics: Annotated[
        bool,
        typer.Option(help="Let TensorRT 8.6 use kernels of cuBLAS and cuDNN, which then have to be installed."),
    ] = True,
    layers: Annotated[
        bool, typer.Option("--layers", help="Count the layers of the engines by the type that they compute in.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Build again what is there.")] = False,
) -> None:
    """Build TensorRT engines of a bundle, on the machine that will run them."""
    from etam_edge.cli.console import megabytes, next_command, out, showing_progress
    from etam_edge.workflows.build import build as build_engines

    with showing_progress() as progress:
        result = build_engines(
            bundle,
            target,
            runtime=runtime.value,
            max_objects=max_objects,
            opt_objects=opt_objects,
            workspace=workspace,
            optimization_level=optimization_level,
            external_tactics=external_tactics,
            verbose=layers,
            overwrite=overwrite,
            progress=progress,
        )
    count, size = len(result.engines), megabytes(result.size)
    out.print(f"{result.bundle.path}: {count} engines, {size}, for {result.platform}")
    precision = result.bundle.manifest.precision
    out.print(f"  1 to {result.max_objects} objects, {precision}; {result.target.advice}")
    if layers:
        _show_layers(result)
    for name, text in result.warnings:
        out.print(f"  {name}: {text}")
    if not result.loaded:
        out.print("  compiled for that GPU, and not loaded: it is not in this machine")
    next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")


def _show_layers(result: BuildResult) -> None:
    from rich.table import Table

    from etam_edge.cli.console import out

    table = Table(
        "graph", "layers", "int8", "fp16", "fp32", "other", caption="by the narrowest type that a layer reads"
    )
    for name, counts in result.layer_counts().items():
        for kind in sorted({kind for kind, _ in counts}):
            row = [str(counts[kind, word] or "") for word in ("int8", "fp16", "fp32", "other")]
            table.add_row(name, kind, *row)
        table.add_section()
    out.print(table)
    if result.layers_note:
        out.print(f"  {result.layers_note}", markup=False)
