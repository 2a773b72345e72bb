"""`etam-edge record`: inputs of every graph, recorded while clips are tracked, for calibration."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def record(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    clips: Annotated[
        Path, typer.Argument(help="Clips in DAVIS layout, or videos or image folders with prompts files.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the recording.")] = Path("recordings/recording"),
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, if CLIPS is a single clip.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each graph, at most.")] = 32,
    max_size: Annotated[int, typer.Option(min=1, help="MB of all samples together, at most.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the choice of samples.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the recording at --output.")] = False,
) -> None:
    """Track clips and record samples of every graph's inputs, spread over the states of the memory."""
    from rich.table import Table

    from etam_edge.cli.console import next_command, out, showing_progress
    from etam_edge.workflows.record import record as record_clips

    with showing_progress() as progress:
        recording = record_clips(
            bundle,
            clips,
            output,
            prompts=prompts,
            samples=samples,
            max_size=max_size,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    table = Table("graph", "kind of call", "calls", "samples")
    for graph, seen in recording.seen.items():
        kinds = [sample.kind for sample in recording.samples[graph]]
        for kind, count in seen.items():
            table.add_row(graph, kind, str(count), str(kinds.count(kind)))
        table.add_section()
    out.print(table)
    frames, count = recording.frames, len(recording.clips)
    out.print(f"{output}: {frames} frames of {count} clip{'s' if count > 1 else ''}")
    next_command(shlex.join(["etam-edge", "quantize", str(bundle), "--calibration", str(output)]))
