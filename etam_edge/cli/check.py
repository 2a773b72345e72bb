"""`etam-edge check`: what a precision, a runtime or a change of the model costs in accuracy."""

from __future__ import annotations

import json
import shlex
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etam_edge import __version__
from etam_edge.cli.threads import THREADS
from etam_edge.errors import BundleError, InputError
from etam_edge.recipe import FP16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etam_edge.evaluation.check import Check
    from etam_edge.evaluation.summary import Comparison
    from etam_edge.evaluation.thresholds import Outcome
    from etam_edge.media.datasets import Clip
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
        typer.Option(help="Points of J&F that may be lost.", show_default="1.0 where there are ground-truth masks"),
    ] = None,
    min_iou: Annotated[
        float | None, typer.Option(help="Smallest IoU with the reference's masks that any frame may have, 0 to 1.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=2, help="Frames of each clip; all without it.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report.", show_default="a folder in checks")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime of BUNDLE: auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")
    ] = "auto",
    reference_runtime: Annotated[str, typer.Option(help="Runtime of the reference.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider of BUNDLE: cpu, cuda or auto.")] = "auto",
    reference_provider: Annotated[str, typer.Option(help="That of the reference.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each.", **THREADS)] = None,
    round_fp16: Annotated[
        bool, typer.Option(help="On a CPU, which computes fp16 in fp32, round after every operation as a GPU does.")
    ] = True,
) -> None:
    """Compare a bundle with a reference over clips; exit code 1 when it lost more than it may."""
    from etam_edge.cli.console import err, frame_progress, next_command, out
    from etam_edge.evaluation.check import check as compare_trackers
    from etam_edge.evaluation.check import count_frames, is_judged, need_opencv
    from etam_edge.evaluation.thresholds import Outcome, Side, choose_thresholds, judge
    from etam_edge.media.datasets import find_clips
    from etam_edge.plotting import need_matplotlib

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
    folder = ExitStack()
    strict = {side: _rounded(side, threads, folder) for side in (ours, theirs) if round_fp16 and _hides_fp16(side)}
    candidate, other = (Side.of(side, rounded=side in strict) for side in (ours, theirs))
    if candidate.checkpoint != other.checkpoint:
        err.print(
            f"note: {bundle} and {reference} come from different checkpoints; what is lost is not lost to precision "
            "alone",
            markup=False,
        )

    with folder, frame_progress() as bar:
        task = bar.add_task("check", total=sum(counts))
        result = compare_trackers(
            strict.get(ours, ours),
            strict.get(theirs, theirs),
            found,
            max_frames,
            lambda clip: bar.update(task, advance=1, description=f"check {clip}"),
            (ours if ours in strict else None, theirs if theirs in strict else None),
        )
    verdict = judge(result.comparison, thresholds)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    outcome = Outcome(candidate, other, result.comparison, thresholds, verdict, __version__, created)
    _print_comparison(result.comparison)
    forms = [
        f"{name} int8 as {side.int8_form}"
        for name, side in (("candidate", candidate), ("reference", other))
        if side.int8_form is not None
    ]
    out.print(f"{'CPU:':<17}{', '.join([candidate.cpu, *forms])}", markup=False, emoji=False)
    try:
        ours.bundle.store_accuracy(outcome.to_manifest())
    except BundleError as error:
        err.print(f"warning: the bundle does not keep this verdict: {error}", markup=False)
    _write_report(target, outcome, result, found)
    out.print(verdict.sentence, markup=False)
    out.print(f"report: {target / REPORT}", markup=False)
    if verdict.passed:
        next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")
        return
    next_command(f"{shlex.join(['etam-edge', 'inspect', str(bundle)])}   (which precision every region has)")
    raise typer.Exit(1)


def _name(bundle: Path) -> str:
    return bundle.resolve().name


def _load(bundle: Path, runtime: str, provider: str, threads: int | None, where: str) -> Tracker:
    """
    Raises:
        EtamError: the bundle, runtime or provider cannot be used; for an unknown option with `where` it was given.
    """
    from etam_edge.runtimes import Tracker

    try:
        return Tracker.load(bundle, runtime, provider=provider, threads=threads)
    except InputError as error:
        raise InputError(f"{where}{error}") from error


def _hides_fp16(tracker: Tracker) -> bool:
    """Whether this runtime computes the bundle's fp16 regions in fp32."""
    recipe = tracker.bundle.manifest.recipe
    half = any(recipe.float_type(region) == FP16 for region in recipe.regions)
    return half and tracker.runtime in ("onnxruntime (cpu)", "openvino (cpu)")


def _rounded(tracker: Tracker, threads: int | None, folder: ExitStack) -> Tracker:
    """The same bundle, rounding fp16 after every operation.

    Raises:
        RuntimeUnavailableError: onnx is not installed.
    """
    from etam_edge.cli.console import export_packages
    from etam_edge.runtimes import Tracker

    with export_packages("rounding fp16 as a GPU does (--no-round-fp16 leaves it out)"):
        from etam_edge.exporters.rounded_bundle import rounded_bundle
    place = Path(folder.enter_context(tempfile.TemporaryDirectory(prefix="etam-edge-"))) / tracker.bundle.path.name
    return Tracker.load(rounded_bundle(tracker.bundle, place).path, provider="cpu", threads=threads)


def _check_prompts(clips: Sequence[Clip], trackers: Sequence[Tracker]) -> None:
    """
    Raises:
        InputError: a clip's frames or prompts do not fit one of the bundles, or its prompts do not fit its frames.
    """
    for clip in clips:
        for tracker in trackers:
            tracker.bundle.check_frame_shape(clip.frames.frame_shape, f"clip {clip.name}")
            clip.plan.check_prompts(clip.frames.frame_shape, tracker.spec, tracker.bundle.manifest.sizes)


def _print_comparison(comparison: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from etam_edge.cli.console import out
    from etam_edge.evaluation.findings import caption, clip_rows, findings

    header, rows, overall = clip_rows(comparison)
    table = Table(caption=caption(comparison), caption_justify="left", box=SIMPLE_HEAD, padding=0)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        # A clip's name may look like markup.
        table.add_row(*map(Text, row))
    table.add_section()
    table.add_row(*map(Text, overall))
    out.print(table)
    for name, text in findings(comparison):
        out.print(f"{name + ':':<17}{text}", markup=False, emoji=False)


def _check_folder(folder: Path) -> None:
    """
    Raises:
        InputError: no file can be written there.
    """
    from etam_edge.atomic import AtomicFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        AtomicFile(folder / FIGURES).discard()
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be written ({error.strerror}); name another folder with --output"
        ) from error


def _write_report(folder: Path, outcome: Outcome, result: Check, clips: Sequence[Clip]) -> None:
    """
    Raises:
        InputError: it cannot be written, or a clip cannot be read any more.
    """
    from etam_edge.atomic import atomic_file
    from etam_edge.evaluation.report import to_html
    from etam_edge.evaluation.worst_frames import worst_frames

    # Not a number is no JSON, and none of the figures is one.
    texts = {
        FIGURES: json.dumps(outcome.to_dict(), indent=1, allow_nan=False) + "\n",
        REPORT: to_html(outcome, result, worst_frames(result, clips)),
    }
    for name, text in texts.items():
        try:
            with atomic_file(folder / name) as file:
                file.write(text.encode())
        except OSError as error:
            raise InputError(
                f"{folder / name} could not be written ({error.strerror}); free space, or name another --output"
            ) from error
