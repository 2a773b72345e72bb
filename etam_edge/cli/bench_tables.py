"""What `etam-edge bench` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from etam_edge.cli.console import err, megabytes, out
from etam_edge.workflows.bench import DESCRIPTION, Benchmark, ObjectsRun, Side, Timing


def show(result: Benchmark) -> None:
    """Print all of it; what casts doubt on it goes to standard error."""

    def say(name: str, text: str) -> None:
        out.print(f"{name + ':':<18}{text}")

    _print_frames(result)
    for run in result.runs:
        _print_stages(result, run)
    for run in result.runs:
        if run.ratio is not None:
            say(
                f"ratio, {_objects(run.objects)}",
                f"a frame of {result.sides[1].name} takes {run.ratio.of_medians:.2f} times one of "
                f"{result.sides[0].name} (95 %: {run.ratio.low:.2f} to {run.ratio.high:.2f}; of minima "
                f"{run.ratio.of_minima:.2f})",
            )
    for side in result.sides:
        how = {"fast": ", resizes fast", "graph": ", resizes in its graphs"}.get(side.resize, "")
        form = "" if side.int8_form is None else f", int8 as {side.int8_form}"
        say("start-up", f"{side.name} loads in {side.load:.0f} ms, {side.runtime}{form}{how}")
    for run in result.runs:
        for side, measured in zip(result.sides, run.sides, strict=True):
            text = _matrix_share(side, run.objects, measured.whole.p50)
            if text:
                say("matrix speed", text)
    for run in result.runs:
        say("memory", _memory(run))
    machine = result.machine
    say(
        "machine",
        f"{machine['cpu']} ({machine['instruction_set']}), {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
    )
    if machine["gpus"]:
        say("GPU", ", ".join(machine["gpus"]))
    if machine["l4t"] or result.power_mode:
        say("Jetson", f"{machine['board'] or 'unknown board'}, power mode {result.power_mode or 'unknown'}")
    for side in result.sides:
        say("threads", f"{side.name}: {side.threads or result.threads or 'chosen by the runtime'}")
    if result.busy:
        say("busy", f"measured beside {result.busy} {DESCRIPTION}")
    for warning in result.noise.warnings:
        err.print(f"warning: {warning}")


def _print_frames(result: Benchmark) -> None:
    source = result.source
    table = Table(
        title=f"whole frames, {source.width} x {source.height} pixels to masks of that size, milliseconds",
        title_justify="left",
        caption=f"{result.frames - result.warm_up} frames after a warm-up of {result.warm_up}; drift: the last frames "
        "over early ones; first: the frame with the prompts",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    header = ("bundle", "objects", "p50", "p95", "p99", "min", "frames/s", "drift", "first", "second", "start")
    for name in header:
        table.add_column(name, justify="left" if name == "bundle" else "right", no_wrap=name != "bundle")
    for run in result.runs:
        for side in run.sides:
            whole = side.whole
            times = (whole.p50, whole.p95, whole.p99, whole.minimum)
            starting = (side.first_frame, side.second_frame, side.start)
            cells = (
                side.side,
                str(run.objects),
                *(f"{value:.2f}" for value in times),
                f"{side.frames_per_second:.1f}",
                f"{side.drift:.2f}",
                *(f"{value:.1f}" for value in starting),
            )
            # A bundle's name may look like markup.
            table.add_row(*cells)
    out.print(table)


def _print_stages(result: Benchmark, run: ObjectsRun) -> None:
    staged = [(side.side, side.stages) for side in run.sides if side.stages is not None]
    table = Table(
        title=f"stages with {_objects(run.objects)}, p50 / p95 / p99 milliseconds",
        title_justify="left",
        caption="a pass of its own, which waits for the device after every stage",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("stage")
    for name, _ in staged:
        table.add_column(name, justify="right")

    def add(name: str, timings: Sequence[Timing | None]) -> None:
        texts = [f"{one.p50:.2f} / {one.p95:.2f} / {one.p99:.2f}" if one is not None else "" for one in timings]
        table.add_row(name, *texts)

    if result.source.decoded:
        add("decode, before", [run.decode] * len(staged))
    for name in staged[0][1].stages:
        add(name, [stages.stages.get(name) for _, stages in staged])
    table.add_section()
    add("whole", [stages.whole for _, stages in staged])
    out.print(table)


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _matrix_share(side: Side, objects: int, median: float) -> str:
    """How much of the CPU's own matrix speed a frame reaches, in a sentence; "" where it was not measured."""
    gflop = side.frame_gflop(objects)
    if gflop is None or side.matrix_gflops is None or not median:
        return ""
    reached = gflop / median * 1e3
    return (
        f"{side.name}, {_objects(objects)}: a frame multiplies {gflop:.1f} GFLOP, {reached:.0f} GFLOPS; "
        f"{reached / side.matrix_gflops:.0%} of the {side.matrix_gflops:.0f} GFLOPS of a large float32 product"
    )


def _memory(run: ObjectsRun) -> str:
    """Of a run, in a sentence."""
    memory = run.memory
    sessions = [
        f"{side.side} {megabytes(side.session_memory)}" for side in run.sides if side.session_memory is not None
    ]
    parts = [f"{_objects(run.objects)}: buffers of a session {', '.join(sessions)}"]
    if memory.resident_at_end is not None and memory.growth is not None:
        parts.append(f"process {megabytes(memory.resident_at_end)}, {memory.growth / 1e6:+.1f} MB since the warm-up")
    if memory.peak is not None:
        parts.append(f"peak {megabytes(memory.peak)}")
    if memory.device is not None:
        parts.append(f"on the GPU {megabytes(memory.device)}")
    return "; ".join(parts)
