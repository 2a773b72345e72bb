"""`etam-edge sensitivity`: what each region loses and gains when it alone changes its precision."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.recipe import FP16, INT8


class Changed(str, Enum):
    FP16 = FP16
    INT8 = INT8


def sensitivity(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    clips: Annotated[
        Path, typer.Option(help="Clips to measure accuracy on; those with ground-truth masks give a drop of J&F too.")
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Clips or a recording to measure activation ranges on.", show_default="the clips of --clips"),
    ] = None,
    precision: Annotated[
        Changed, typer.Option(help="Precision that each region gets, one region at a time.")
    ] = Changed.INT8,
    region: Annotated[list[str] | None, typer.Option(help="Only this region; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, if --clips is a single clip.")] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=2, help="Frames of each clip.", show_default="all frames")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", **THREADS)] = None,
    output: Annotated[Path, typer.Option(help="Folder for the table and the plot.")] = Path("out/sensitivity"),
) -> None:
    """Rank the regions of a model by the accuracy they lose and the time they gain, one at a time."""
    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.workflows.sensitivity import sensitivity as measure

    with showing_progress() as progress:
        result = measure(
            bundle,
            clips,
            precision.value,
            calibration=calibration,
            prompts=prompts,
            regions=region,
            max_frames=max_frames,
            threads=threads,
            output=output,
            progress=progress,
        )
    show_costs(result.to_rows())
    out.print(", ".join(map(str, result.files)))
    quantize = ["etam-edge", "quantize", str(bundle), "--precision", precision.value, "--calibration", "CLIPS"]
    next_command(f"{shlex.join(quantize)} --region NAME=PRECISION")


def show_costs(costs: Sequence[Mapping[str, Any]]) -> None:
    """Print the ranking as a table.

    Args:
        costs: fields of `etam_edge.evaluation.sensitivity.RegionCost`, one mapping for each region.
    """
    from rich.table import Column, Table

    from etam_edge.cli.console import name_column, out

    precision = costs[0]["precision"]
    # fp16 is emulated on a CPU: its times mean nothing.
    timed = precision == INT8
    columns: list[Column | str] = [
        name_column("region", (cost["region"] for cost in costs)),
        "drop of J&F",
        "mean IoU",
        "smallest IoU",
        "flips",
        "NaN",
        *(["ms", "gained"] if timed else []),
    ]
    table = Table(
        *columns,
        title=f"each region alone in {precision}, compared with fp32; the least accuracy lost first",
        caption="flips: objects on frames where visibility or the chosen mask changed; NaN: frames; ms: of a frame; "
        "CPU: " + ", int8 as ".join(filter(None, (costs[0].get("cpu"), costs[0].get("int8_form")))),
    )
    for cost in costs:
        drop = "no ground truth" if cost["drop"] is None else f"{cost['drop']:+.2f}"
        row = [cost["region"], drop, f"{cost['mean_iou']:.4f}", f"{cost['smallest_iou']:.3f}"]
        row += [str(cost["score_flips"] + cost["choice_flips"]), str(cost["not_finite"])]
        gain = cost["reference_milliseconds"] - cost["milliseconds"]
        table.add_row(*row, *([f"{cost['milliseconds']:.1f}", f"{gain:+.2f}"] if timed else []))
    out.print(table)
