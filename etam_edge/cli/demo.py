"""`etam-edge demo`: from a checkpoint to tracked videos in three precisions, by the commands a user would type."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.errors import InputError
from etam_edge.recipe import FP16, FP32, INT8

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle

ALLOWED = {FP16: 0.1, INT8: 1.0}
"""Points of J&F that a precision may lose here."""
OBJECTS = {"chair": {1: "chair", 2: "its reflection"}, "crossing": {1: "ball", 2: "box"}}
"""What is tracked in each clip."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for bundles, videos and reports.")] = Path("out/demo"),
    model: Annotated[
        str | None,
        typer.Option(help="Model to show; `etam-edge models` lists them.", show_default="etam_nano, in the package"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint file of that model.")] = None,
) -> None:
    """Export a model in fp32, fp16 and int8, track two clips with each, and check what it cost. Needs no network."""
    from etam_edge.bundle import Bundle
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.track import track
    from etam_edge.evaluation.check import need_opencv
    from etam_edge.media import write_clips
    from etam_edge.plotting import need_matplotlib

    # What is missing is said before the model is exported.
    need_opencv()
    need_matplotlib()
    clips = output / "clips"
    try:
        write_clips(clips)
    except InputError as error:
        raise InputError(f"--output {output} cannot be made ({error}); name another folder") from error

    bundles = {word: _export(word, output, clips, model, checkpoint) for word in (FP32, FP16, INT8)}
    overlays = []
    for word, bundle in bundles.items():
        for name in OBJECTS:
            source = clips / (f"{name}.mp4" if name == "chair" else name)
            overlay = output / f"{name}_{word}.mp4"
            _show("track", bundle, source, prompts=clips / f"{name}.json", output=overlay)
            track(bundle, str(source), prompts=clips / f"{name}.json", output=overlay)
            overlays.append(overlay)
    figures = {word: _check(bundles[word], bundles[FP32], clips, output / f"check_{word}", word) for word in ALLOWED}

    out.print()
    _table({word: Bundle.load(path) for word, path in bundles.items()}, figures)
    out.print("Overlay videos:")
    for overlay in overlays:
        out.print(f"  {overlay}", markup=False, soft_wrap=True)
    out.print("Reports:")
    for word in figures:
        out.print(f"  {output / f'check_{word}' / 'report.html'}", markup=False, soft_wrap=True)
    next_command(f"etam-edge track {shlex.quote(str(bundles[FP32]))} YOUR_VIDEO.mp4 --box X0,Y0,X1,Y1")


def _export(word: str, output: Path, clips: Path, model: str | None, checkpoint: Path | None) -> Path:
    from etam_edge.cli.export import Precision, Rest, export

    bundle = output / word
    options: dict[str, Any] = {"precision": Precision(word)}
    if word == INT8:
        # Calibrated on the drawn clip, judged on the real one too. A CPU gains nothing from fp16 beside it.
        options |= {"calibration": clips / "crossing", "prompts": clips / "crossing.json", "rest": Rest.FP32}
    shown = {name: value.value if isinstance(value, Precision | Rest) else value for name, value in options.items()}
    _show("export", "--output", bundle, "--overwrite", model=model, checkpoint=checkpoint, **shown)
    export(model=model, checkpoint=checkpoint, output=bundle, overwrite=True, **options)
    return bundle


def _check(bundle: Path, reference: Path, clips: Path, output: Path, word: str) -> dict[str, Any]:
    """The check's figures. A drop beyond what is allowed is shown and does not end the demo."""
    from etam_edge.cli.check import FIGURES, check

    _show("check", bundle, reference=reference, clips=clips, max_drop=ALLOWED[word], output=output)
    with suppress(typer.Exit):
        check(bundle, reference, clips, max_drop=ALLOWED[word], output=output)
    figures: dict[str, Any] = json.loads((output / FIGURES).read_text(encoding="utf-8"))
    return figures


def _show(*words: object, **options: object) -> None:
    """The command, as a user would type it."""
    from etam_edge.cli.console import out

    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    texts = [str(word) for word in (*words, *(part for pair in given for part in pair))]
    out.print(f"\n$ etam-edge {shlex.join(texts)}", markup=False, highlight=False, soft_wrap=True)


def _table(bundles: dict[str, Bundle], figures: dict[str, dict[str, Any]]) -> None:
    """What each precision costs and gives."""
    from rich.table import Table

    from etam_edge.cli.console import megabytes, out

    table = Table(
        "precision",
        "size",
        "ms a frame",
        "J&F",
        "drop",
        "IoU to fp32",
        title="what each precision costs",
        caption="J&F: how well masks and outlines fit the true ones, 100 is perfect; drop: points lost against fp32, "
        "negative where it gained. Two objects a frame on this CPU, which gains from int8; fp16 is for GPUs.",
        caption_justify="left",
    )
    for word, bundle in bundles.items():
        size = megabytes(sum(bundle.graph_path(name).stat().st_size for name in bundle.manifest.graphs))
        side = "reference" if word == FP32 else "candidate"
        # fp32 is measured in both checks; the last one is as good as the first.
        comparison = figures[INT8 if word == FP32 else word]["comparison"]
        overall, latency = comparison["overall"], comparison[f"{side}_latency"]
        drop, iou = ("", "") if word == FP32 else (f"{overall['drop']['j_and_f']:.2f}", f"{overall['mean_iou']:.4f}")
        table.add_row(word, size, f"{latency['median']:.1f}", f"{100 * overall[side]['j_and_f']:.1f}", drop, iou)
    out.print(table)
