"""`etam-edge bench`: how fast a bundle is on this machine, and how much faster or slower than another."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from etam_edge.cli.threads import THREADS
from etam_edge.errors import InputError

TORCH = "torch"


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle that is measured.")],
    source: Annotated[
        str | None,
        typer.Option(help="Video file or folder of images, repeated as needed.", show_default="a drawn clip"),
    ] = None,
    frame_size: Annotated[
        str | None,
        typer.Option(help="WxH in pixels of the drawn clip's frames.", show_default="the bundle's own, or 320x240"),
    ] = None,
    objects: Annotated[str, typer.Option(help="Numbers of objects, one run for each.")] = "1,2,4",
    frames: Annotated[int, typer.Option(help="Frames of each run, warm-up included.")] = 200,
    warm_up: Annotated[int, typer.Option(help="Frames at the beginning of each run that do not count.")] = 20,
    against: Annotated[
        str | None, typer.Option(help="Another bundle, or torch; frames of the two are interleaved.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint for --against torch.", show_default="the package's, if the model is etam_nano"),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime of BUNDLE: auto, onnxruntime, openvino, tensorrt or tensorrt-rtx.")
    ] = "auto",
    against_runtime: Annotated[str, typer.Option(help="Runtime of the other bundle.")] = "auto",
    provider: Annotated[str, typer.Option(help="ONNX Runtime provider of BUNDLE: cpu, cuda or auto.")] = "auto",
    against_provider: Annotated[str, typer.Option(help="ONNX Runtime provider of the other bundle.")] = "auto",
    resize: Annotated[str, typer.Option(help="How the host resizes for BUNDLE: exact or fast.")] = "exact",
    against_resize: Annotated[str, typer.Option(help="How the host resizes for the other bundle.")] = "exact",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each.", **THREADS)] = None,
    busy: Annotated[
        int, typer.Option(help="Number of processes that keep a core busy each while frames are measured.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for figures and plots.", show_default="out/bench/BUNDLE")
    ] = None,
) -> None:
    """Measure whole frames, their stages and memory, alone or interleaved with another bundle or PyTorch."""
    from etam_edge.cli.bench_tables import show
    from etam_edge.cli.console import out, showing_progress
    from etam_edge.cli.frame_size import parse_frame_size
    from etam_edge.workflows.bench import bench as run_benchmark

    given = {
        "source": source,
        "frame-size": frame_size,
        "objects": objects,
        "frames": frames,
        "warm-up": warm_up,
        "against": against,
        "checkpoint": checkpoint,
        **_changed(
            {
                "runtime": runtime,
                "provider": provider,
                "against-runtime": against_runtime,
                "against-provider": against_provider,
                "threads": threads,
                "resize": resize,
                "against-resize": against_resize,
                "busy": busy or None,
            }
        ),
    }
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    with showing_progress() as progress:
        result = run_benchmark(
            bundle,
            source=source,
            frame_size=None if frame_size is None else parse_frame_size(frame_size),
            objects=_numbers(objects),
            frames=frames,
            warm_up=warm_up,
            against=against,
            checkpoint=checkpoint,
            runtime=runtime,
            against_runtime=against_runtime,
            provider=provider,
            against_provider=against_provider,
            resize=resize,
            against_resize=against_resize,
            threads=threads,
            busy=busy,
            output=output or Path("out") / "bench" / bundle.resolve().name,
            command=shlex.join(["etam-edge", "bench", str(bundle), *options]),
            progress=progress,
        )
    show(result.figures)
    out.print(", ".join(map(str, result.files)))
    _name_next(bundle, against)


def _numbers(text: str) -> list[int]:
    """
    Raises:
        InputError: the text is not a list of numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"`objects={text}` is not a list of numbers from 1 to 64; give numbers like 1,2,4")
    return [int(part[:9]) for part in parts]


def _changed(options: Mapping[str, object]) -> dict[str, object]:
    """Those that differ from the defaults."""
    return {name: value for name, value in options.items() if value not in ("auto", "exact", None)}


def _name_next(bundle: Path, against: str | None) -> None:
    from etam_edge.cli.console import next_command

    if against is None:
        next_command(f"{shlex.join(['etam-edge', 'bench', str(bundle)])} --against BUNDLE   (or torch)")
    elif against == TORCH:
        next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")
    else:
        words = ["etam-edge", "check", str(bundle), "--reference", against]
        next_command(f"{shlex.join(words)} --clips CLIPS   (what it costs)")
