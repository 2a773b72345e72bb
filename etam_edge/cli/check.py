"""`etam-edge check`: what a precision, a runtime or a change of the model costs in accuracy."""

from __future__ import annotations

import json
import os
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etam_edge.calibration.check import Check
    from etam_edge.calibration.summary import Comparison
    from etam_edge.clips.clip_set import Clip
    from etam_edge.runtimes import Tracker

REPORT, FIGURES = "report.html", "check.json"


def check(
    bundle: Annotated[Path, typer.Argument(help="Bundle that is judged.")],
    reference: Annotated[Path, typer.Option(help="Bundle that it is compared with, as a rule the fp32 one.")],
    clips: Annotated[
        Path, typer.Option(help="Clips in DAVIS layout, or a folder of videos or image folders with prompts files.")
    ],
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts, where --clips is one clip.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of J&F that may be lost.", show_default="1.0 where there are true masks"),
    ] = None,
    min_iou: Annotated[
        float | None, typer.Option(help="Smallest IoU with the reference's masks that any frame may have, 0 to 1.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=2, help="Frames of each clip; all without it.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="checks/BUNDLE-against-REFERENCE")
    ] = None,
    runtime: Annotated[str, typer.Option(help="Runtime of BUNDLE: auto or onnxruntime.")] = "auto",
    reference_runtime: Annotated[str, typer.Option(help="Runtime of the reference.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider of BUNDLE: cpu, cuda or auto.")] = "auto",
    reference_provider: Annotated[str, typer.Option(help="That of the reference.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each.", show_default="all cores")] = None,
) -> None:
    """Compare a bundle with a reference over clips; exit code 1 when it lost more than it may."""
    from etam_edge.calibration.check import check as compare_trackers
    from etam_edge.calibration.check import count_frames, is_judged
    from etam_edge.calibration.plots import need_matplotlib
    from etam_edge.calibration.verdict import Side, choose_thresholds, judge, to_manifest
    from etam_edge.calibration.worst_frames import need_opencv
    from etam_edge.cli.console import err, frame_progress, next_command, out
    from etam_edge.clips.clip_set import find_clips

    # All that can be refused is refused before the first frame is tracked.
    need_opencv()
    need_matplotlib()
    target = output or Path("checks") / f"{_name(bundle)}-against-{_name(reference)}"
    found = find_clips(clips, prompts)
    counts = count_frames(found, max_frames)
    judged = sum(is_judged(clip, count) for clip, count in zip(found, counts, strict=True))
    thresholds = choose_thresholds(max_drop, min_iou, judged, len(found))
    ours = _load(bundle, runtime, provider, threads, "")
    theirs = _load(reference, reference_runtime, reference_provider, threads, "--reference: ")
    _check_prompts(found, (ours, theirs))
    _check_folder(target)
    candidate, other = Side.of(ours), Side.of(theirs)
    if candidate.checkpoint != other.checkpoint:
        err.print(
            f"note: {bundle} and {reference} come from different checkpoints; what is lost is not lost to precision "
            "alone",
            markup=False,
        )

    with frame_progress() as bar:
        task = bar.add_task("check", total=sum(counts))
        result = compare_trackers(
            ours, theirs, found, max_frames, lambda clip: bar.update(task, advance=1, description=f"check {clip}")
        )
    verdict = judge(result.comparison, thresholds)
    _print_table(result.comparison)
    _print_findings(result.comparison)
    made = _made()
    accuracy = to_manifest(candidate, other, result.comparison, thresholds, verdict, made)
    try:
        ours.bundle.store_accuracy(accuracy)
    except BundleError as error:
        err.print(f"warning: the verdict is not kept in the bundle: {error}", markup=False)
    _write_report(target, result, found, candidate, other, thresholds, verdict, made)
    out.print(verdict.sentence, markup=False)
    out.print(f"report: {target / REPORT}", markup=False)
    if verdict.passed:
        next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")
        return
    next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (which precision every region has)")
    raise typer.Exit(1)
