"""`etam-edge build`: engines from a bundle, on the machine that will run them."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.bundle.engines import TENSORRT, TENSORRT_RTX, EnginePlatform
from etam_edge.bundle.targets import MEBIBYTE, TARGETS, THIS_MACHINE, Target, find_target, version_numbers
from etam_edge.errors import CudaError, InputError, RuntimeUnavailableError

if TYPE_CHECKING:
    from etam_edge.bundle import Bundle
    from etam_edge.exporters.tensorrt.builder import Built
    from etam_edge.exporters.tensorrt.engine_set import Inspect
    from etam_edge.runtimes.backends.cuda.driver import Cuda


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
    bundle: Annotated[Path, typer.Argument(help="Directory that export wrote.")],
    target: Annotated[str, typer.Option(help=_target_help())] = THIS_MACHINE,
    runtime: Annotated[
        BuildRuntime,
        typer.Option(help="tensorrt builds on the GPU that runs; tensorrt-rtx compiles for a target with no GPU here."),
    ] = BuildRuntime.TENSORRT,
    max_objects: Annotated[int, typer.Option(help="Most objects that are tracked at a time.")] = 8,
    opt_objects: Annotated[int, typer.Option(help="Number of objects that kernels are chosen for.")] = 1,
    workspace: Annotated[
        int | None, typer.Option(help="MB that a layer may use, at most.", show_default="by target")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Count the layers that TensorRT made, by what they compute in.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Build again what is there.")] = False,
) -> None:
    """Build TensorRT engines of a bundle, on the machine that will run them."""
    from etam_edge.bundle import Bundle
    from etam_edge.cli.console import megabytes, next_command, out
    from etam_edge.exporters.tensorrt.builder import BuildOptions, check_capabilities
    from etam_edge.exporters.tensorrt.engine_set import build_engines
    from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt

    machine = find_target(target)
    loaded = Bundle.load(bundle)
    flavour = runtime.value
    options = BuildOptions(
        max_objects,
        opt_objects,
        machine.workspace if workspace is None else workspace * MEBIBYTE,
        verbose=layers,
    )
    if flavour == TENSORRT_RTX and machine.compute_capability is not None:
        check_capabilities([machine.compute_capability])
    trt = import_tensorrt(flavour)
    cuda = None if flavour == TENSORRT_RTX and machine.compute_capability else _open_gpu(loaded, machine)
    platform = _platform(flavour, trt, machine, cuda)
    if flavour == TENSORRT_RTX:
        options = replace(options, compute_capabilities=(platform.compute_capability,))
    _check_version(machine, platform)

    context = nullcontext() if cuda is None else cuda.current()
    with context, _interrupts_noted() as cancelled, _progress() as show:
        built = build_engines(
            trt,
            loaded,
            platform,
            options,
            overwrite,
            inspect=_loader(trt) if cuda is not None and flavour == TENSORRT else None,
            progress=show,
            cancelled=cancelled,
        )
    size = sum(len(one.plan) for one in built.values())
    out.print(f"{loaded.path}: {len(built)} engines, {megabytes(size)}, for {platform}", markup=False)
    out.print(f"  1 to {max_objects} objects, {loaded.manifest.precision}; {machine.advice}", markup=False)
    if layers:
        _show_layers(built)
    for name, one in built.items():
        for severity, text in one.log:
            if severity == "WARNING":
                out.print(f"  {name}: {text}", markup=False)
    if flavour == TENSORRT_RTX and cuda is None:
        out.print("  compiled for that GPU and not run here: there is none", markup=False)
    next_command(f"{shlex.join(['etam-edge', 'track', str(bundle)])} VIDEO --point X,Y")


def _show_layers(built: dict[str, Built]) -> None:
    from rich.table import Table

    from etam_edge.cli.console import out
    from etam_edge.exporters.tensorrt.layer_types import count, layers

    table = Table(
        "graph", "layers", "int8", "fp16", "fp32", "other", caption="by the narrowest type that a layer reads"
    )
    for name, one in built.items():
        counts = count(layers(one.log))
        for kind in sorted({kind for kind, _ in counts}):
            row = [str(counts[kind, word] or "") for word in ("int8", "fp16", "fp32", "other")]
            table.add_row(name, kind, *row)
        table.add_section()
    out.print(table)


def _open_gpu(bundle: Bundle, target: Target) -> Cuda:
    """The GPU that is here.

    Raises:
        RuntimeUnavailableError: there is none; what to copy where is said.
        InputError: it is not the target's.
    """
    from etam_edge.runtimes.backends.cuda.open import open_cuda

    where = f"copy {bundle.path} there whole and run: etam-edge build {bundle.path.name} --target {target.name}"
    try:
        cuda = open_cuda()
    except (RuntimeUnavailableError, CudaError) as error:
        raise RuntimeUnavailableError(
            f"engines are built on the machine that will run them, and here {error}; {where}"
        ) from error
    wanted, found = target.compute_capability, cuda.gpu.compute_capability
    if wanted is not None and wanted != found:
        raise InputError(
            f"--target {target.name} has compute capability {wanted[0]}.{wanted[1]}, and the GPU here, "
            f"{cuda.gpu.name}, has {found[0]}.{found[1]}; {where}, or build for this one with --target {THIS_MACHINE}"
        )
    return cuda


def _platform(flavour: str, trt: Any, target: Target, cuda: Cuda | None) -> EnginePlatform:
    from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here

    if cuda is not None:
        return platform_here(flavour, trt, cuda.gpu)
    assert target.compute_capability is not None
    return EnginePlatform(flavour, str(trt.__version__), "any", target.compute_capability)


def _check_version(target: Target, platform: EnginePlatform) -> None:
    """Say where a TensorRT is outside of what the target is known to take."""
    from etam_edge.cli.console import err

    if platform.flavour != TENSORRT:
        return
    oldest, newest = (version_numbers(text) for text in target.tensorrt)
    found = version_numbers(platform.tensorrt)
    if found[: len(oldest)] < oldest or found[: len(newest)] > newest:
        err.print(
            f"note: TensorRT {platform.tensorrt} is outside of {' to '.join(target.tensorrt)}, which {target.name} is "
            "known to take; check what comes out with etam-edge check",
            markup=False,
        )


def _loader(trt: Any) -> Inspect:
    """Loads an engine on the GPU, to see that it can be."""
    from etam_edge.errors import ExportError

    def inspect(path: Path) -> int:
        runtime = trt.Runtime(trt.Logger(trt.ILogger.ERROR))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ExportError(f"TensorRT {trt.__version__} does not load the engine that it built of {path.stem}")
        newer = hasattr(engine, "device_memory_size_v2")
        return int(engine.device_memory_size_v2 if newer else engine.device_memory_size)

    return inspect


@contextmanager
def _interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the build at TensorRT's next step: inside a step Python does not hear it."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    held = threading.current_thread() is threading.main_thread() and before is not None
    if held:
        signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        if held:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _progress() -> Iterator[Callable[[str, str, int, int], None]]:
    """A bar over the graphs, with what TensorRT is doing beside it."""
    from etam_edge.bundle import GRAPH_NAMES
    from etam_edge.cli.console import progress_bar

    with progress_bar() as bar:
        task = bar.add_task("build", total=len(GRAPH_NAMES))

        def show(graph: str, phase: str, done: int, steps: int) -> None:
            index = GRAPH_NAMES.index(graph)
            bar.update(task, completed=index, description=f"build {graph}: {phase[:40]} {done}/{steps}")

        bar.update(task, description=f"build {GRAPH_NAMES[0]}")
        yield show
        bar.update(task, completed=len(GRAPH_NAMES), description="build")
