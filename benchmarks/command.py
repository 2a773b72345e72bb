"""The command line: parts in order, then one JSON file, the tables, and plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import (
    bench_alternatives,
    bench_arithmetic,
    bench_kernels,
    bench_objects,
    bench_profile,
    bench_reference,
    bench_stages,
    bench_start,
    bench_streams,
    bench_threads,
    bench_tricks,
)
from benchmarks.bundles import Bundles
from benchmarks.record import Recorder
from benchmarks.settings import Part, Settings
from etam_edge.benchmark.background import BackgroundLoad
from etam_edge.benchmark.measure import frames_to_fill
from etam_edge.errors import EtamError, InputError
from etam_edge.spec import find_spec

MODELS = ("efficienttam_ti_512x512", "efficienttam_ti_1", "efficienttam_ti_2")
PARTS: Mapping[str, Callable[[Settings], Part]] = {
    "reference": bench_reference.run,
    "threads": bench_threads.run,
    "tricks": bench_tricks.run,
    "stages": bench_stages.run,
    "profile": bench_profile.run,
    "objects": bench_objects.run,
    "streams": bench_streams.run,
    "start": bench_start.run,
    "kernels": bench_kernels.run,
    "arithmetic": bench_arithmetic.run,
    "alternatives": bench_alternatives.run,
}
NEEDS_REFERENCE = "reference"
NEEDS_TRANSFORMERS = "alternatives"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for: 0 when done, 2 where the call or its input is wrong."""
    options = parse(arguments)
    wanted = options.only or [
        name
        for name in PARTS
        if name != NEEDS_TRANSFORMERS and (name != NEEDS_REFERENCE or options.reference is not None)
    ]
    try:
        settings = settings_of(options)
        recorder = Recorder(sys.argv if arguments is None else [sys.argv[0], *arguments], settings)
        if NEEDS_REFERENCE not in wanted and not options.only:
            print("note: the reference is not measured; add --reference DIR", file=sys.stderr)
        tables = ""
        for name in wanted:
            recorder.add(name, PARTS[name](settings))
            # After every part: what is measured is not lost to a later one that fails.
            tables = recorder.write()
        print(tables)
    except EtamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what docs/performance.md says.")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of yformer/EfficientTAM")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="of most parts")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--candidates", nargs="+", default=[], metavar="NAME", help="only these are measured")
    parser.add_argument("--also", nargs="+", type=named_folder, default=[], metavar="NAME=DIR", help="more bundles")
    parser.add_argument("--frames", type=positive, default=15, help="that count, of each candidate")
    parser.add_argument("--warm-up", type=positive, default=20, help="frames before them; memory has to be full")
    parser.add_argument("--stream", type=positive, default=5050, help="frames of the long stream")
    parser.add_argument("--starts", type=positive, default=7, help="fresh processes of each kind")
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="measure whole frames again beside N busy processes"
    )
    parser.add_argument("--threads", type=positive, help="of PyTorch and ONNX Runtime; their own choice without it")
    parser.add_argument("--bundles", type=Path, metavar="DIR", help="take bundles named MODEL or MODEL-int8 from here")
    parser.add_argument("--output", type=Path, default=Path("out/performance"), metavar="DIR")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """
    Raises:
        InputError: no model has a name that was given, or the warm-up or the background load is not possible.
    """
    fill = max(frames_to_fill(find_spec(name)) for name in options.models)
    if options.warm_up < fill:
        raise InputError(f"a warm-up of {options.warm_up} frames ends before memory is full; use --warm-up {fill}")
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return Settings(
        models=options.models,
        candidates=options.candidates,
        frames=options.frames,
        warm_up=options.warm_up,
        stream=options.stream,
        starts=options.starts,
        reference=options.reference,
        also=dict(options.also),
        threads=options.threads,
        output=options.output,
        busy=BackgroundLoad(options.busy).processes,
        bundles=Bundles(options.output / "bundles", options.bundles),
    )


def positive(text: str) -> int:
    """
    Raises:
        ValueError: it is no whole number above 0.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def named_folder(text: str) -> tuple[str, Path]:
    """
    Raises:
        ValueError: it is not NAME=DIR.
    """
    name, folder = text.split("=", 1)
    if not name or not folder:
        raise ValueError(text)
    return name, Path(folder)
