"""`etam-edge record`: true inputs of every graph from rollouts, to calibrate on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def record(
    bundle: Annotated[Path, typer.Argument(help="An fp32 bundle.")],
    clips: Annotated[
        Path, typer.Argument(help="Clips in DAVIS layout, or videos or image folders with prompts files.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the recording.")] = Path("recordings/recording"),
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, where CLIPS is one clip.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each graph, at most.")] = 32,
    max_size: Annotated[int, typer.Option(min=1, help="MB of all samples together, at most.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the choice of samples.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the recording at --output.")] = False,
) -> None:
    """Track clips and keep samples of what every graph is given, spread over the states of the memory."""
    from rich.table import Table

    from etam_edge import atomic
    from etam_edge.bundle import Bundle
    from etam_edge.calibration.recording import MANIFEST
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.conversion import record_clips
    from etam_edge.media.datasets import find_clips

    atomic.check_target(output, overwrite, MANIFEST, "recording")
    source = Bundle.load(bundle)
    recording = record_clips(
        source,
        find_clips(clips, prompts),
        output,
        "record",
        samples=samples,
        max_bytes=max_size * 1_000_000,
        seed=seed,
        overwrite=overwrite,
    )
    table = Table("graph", "kind of call", "seen", "kept")
    for graph, seen in recording.seen.items():
        kinds = [sample.kind for sample in recording.samples[graph]]
        for kind, count in seen.items():
            table.add_row(graph, kind, str(count), str(kinds.count(kind)))
        table.add_section()
    out.print(table)
    frames, count = recording.frames, len(recording.clips)
    out.print(f"{output}: {frames} frames of {count} clip{'s' if count > 1 else ''}", markup=False)
    next_command(f"etam-edge export --precision int8 --calibration {output}")
