"""TensorRT engines of a bundle, built on the machine that will run them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.bundle.engines import FLAVOURS, TENSORRT, TENSORRT_RTX, EnginePlatform
from etam_edge.bundle.memory import GraphMemory, graph_memory
from etam_edge.bundle.targets import (
    MEBIBYTE,
    SHARED_MEMORY_OBJECTS,
    THIS_MACHINE,
    Target,
    find_target,
    version_numbers,
)
from etam_edge.errors import CudaError, InputError, RuntimeUnavailableError
from etam_edge.interrupts import interrupts_noted
from etam_edge.workflows.clips import PathLike
from etam_edge.workflows.doctor import ROOT
from etam_edge.workflows.progress import ProgressCallback, Stage

if TYPE_CHECKING:
    from etam_edge.exporters.tensorrt.builder import Built
    from etam_edge.runtimes.backends.cuda.driver import Cuda

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildResult:
    """Engines that were built.

    Attributes:
        bundle: that holds them.
        platform: TensorRT and GPU that they belong to.
        target: the kind of machine.
        max_objects: most objects of one call.
        engines: for each graph its plan, and the log of its build.
        loaded: whether each engine was loaded on the GPU of this machine.
    """

    bundle: Bundle
    platform: EnginePlatform
    target: Target
    max_objects: int
    engines: Mapping[str, Built]
    loaded: bool

    @property
    def size(self) -> int:
        """Bytes of all engines."""
        return sum(len(one.plan) for one in self.engines.values())

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Graph and text of every warning of TensorRT."""
        return [
            (name, text) for name, one in self.engines.items() for severity, text in one.log if severity == "WARNING"
        ]

    @property
    def layers_note(self) -> str:
        """What `layer_counts` does not say; "" where it says everything."""
        if self.platform.flavour == TENSORRT and version_numbers(self.platform.tensorrt) < (10,):
            return (
                "TensorRT 8 compiles a graph to one block or a few, and does not tell what is inside: int8 layers that "
                "are missing here may be int8 in a block; compile with TensorRT for RTX or 10 to see them"
            )
        return ""

    def layer_counts(self) -> dict[str, Counter[tuple[str, str]]]:
        """For each graph, how many layers of each kind compute in which type, by (kind, type).

        Types are "int8", "fp16", "fp32" and "other". Empty where the build was not `verbose`.
        """
        from etam_edge.exporters.tensorrt.layer_types import count, layers

        return {name: count(layers(one.log)) for name, one in self.engines.items()}


def build(
    bundle: Bundle | PathLike,
    target: str = THIS_MACHINE,
    *,
    runtime: str = TENSORRT,
    max_objects: int | None = None,
    opt_objects: int = 1,
    workspace: int | None = None,
    optimization_level: int | None = None,
    external_tactics: bool = True,
    verbose: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> BuildResult:
    """Build TensorRT engines of a bundle, into the bundle. Needs neither PyTorch nor onnx.

    Args:
        bundle: of any precision, or its path.
        target: kind of machine that will run the engines (`etam_edge.bundle.targets.TARGETS`), by default this one.
        runtime: "tensorrt" builds on the GPU of this machine; "tensorrt-rtx" compiles for a target with no GPU here.
        max_objects: most objects that are tracked at a time; None for the target's: 1 or 2 where GPU and CPU share one
            memory, 8 elsewhere. `etam_edge.bundle.memory` estimates what they need.
        opt_objects: number of objects that kernels are chosen for, at most `max_objects`.
        workspace: MB (2^20 bytes) that a layer may use while engines are built, at most; None for the target's, or as
            much as is needed for `max_objects`.
        optimization_level: how many kernels TensorRT tries for a layer, 0 to 5; None for its default, 3.
        external_tactics: False builds without kernels of cuBLAS and cuDNN, which TensorRT 8.6 uses otherwise.
        verbose: keep TensorRT's log with the types of every layer, for `BuildResult.layer_counts`.
        overwrite: build again what is there.
        progress: told of the stage "build", a step for each graph, with TensorRT's own steps in the description.

    Raises:
        InputError: an argument cannot be used, the GPU is not the target's, or the engines are there already.
        BundleError: the bundle is missing or damaged.
        RuntimeUnavailableError: TensorRT or a GPU is not here.
        CudaError: CUDA failed.
        ExportError: TensorRT cannot build a graph; no engine was written.
        KeyboardInterrupt: Ctrl-C; no engine was written.
    """
    from etam_edge.exporters.tensorrt.builder import BuildOptions, check_capabilities
    from etam_edge.exporters.tensorrt.engine_set import build_engines, engine_inspector
    from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt

    if runtime not in FLAVOURS:
        raise InputError(f"`runtime={runtime}` cannot build engines; use {' or '.join(FLAVOURS)}")
    machine = find_target(target)
    loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    # Refused before a GPU is looked for.
    asked = BuildOptions(
        machine.max_objects if max_objects is None else max_objects,
        opt_objects,
        machine.workspace if workspace is None else workspace * MEBIBYTE,
        optimization_level=optimization_level,
    )
    if runtime == TENSORRT_RTX and machine.compute_capability is not None:
        check_capabilities([machine.compute_capability])
    cuda = None
    compiles_without_gpu = runtime == TENSORRT_RTX and machine.compute_capability is not None
    if target != THIS_MACHINE and not compiles_without_gpu:
        # Before TensorRT: a build for a Jetson on a workstation is refused with the advice to build on the Jetson, not
        # with the advice to install TensorRT on the workstation.
        cuda = _open_gpu(loaded, machine)
    trt = import_tensorrt(runtime)
    if cuda is None and not compiles_without_gpu:
        cuda = _open_gpu(loaded, machine)
    platform = _platform(runtime, trt, machine, cuda)
    if max_objects is None:
        shares = cuda is not None and cuda.gpu.integrated
        max_objects = min(machine.max_objects, SHARED_MEMORY_OBJECTS) if shares else machine.max_objects
    needed = graph_memory(loaded, max_objects)
    options = BuildOptions(
        max_objects,
        opt_objects,
        choose_workspace(machine, workspace, needed),
        compute_capabilities=(platform.compute_capability,) if runtime == TENSORRT_RTX else (),
        verbose=verbose,
        optimization_level=asked.optimization_level,
        external_tactics=external_tactics,
    )
    _warn_of_version(machine, platform)
    if cuda is not None:
        _warn_of_memory(needed, available_memory(cuda), max_objects)

    graphs = Stage(progress, "build", len(GRAPH_NAMES))

    def show(graph: str, phase: str, done: int, steps: int) -> None:
        graphs.update(GRAPH_NAMES.index(graph), f"{graph}: {phase[:40]} {done}/{steps}")

    with nullcontext() if cuda is None else cuda.current(), interrupts_noted() as cancelled:
        built = build_engines(
            trt,
            loaded,
            platform,
            options,
            overwrite,
            inspect=engine_inspector(trt) if cuda is not None and runtime == TENSORRT else None,
            progress=show,
            cancelled=cancelled,
        )
    graphs.update(len(GRAPH_NAMES))
    return BuildResult(loaded, platform, machine, max_objects, built, loaded=cuda is not None)


def _open_gpu(bundle: Bundle, target: Target) -> Cuda:
    """The GPU of this machine.

    Raises:
        RuntimeUnavailableError: there is none; the error says what to copy where.
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
            f"`target={target.name}` has compute capability {wanted[0]}.{wanted[1]}, and the GPU here, "
            f"{cuda.gpu.name}, has {found[0]}.{found[1]}; {where}, or build for this one with `target={THIS_MACHINE}`"
        )
    return cuda


def _platform(flavour: str, trt: Any, target: Target, cuda: Cuda | None) -> EnginePlatform:
    from etam_edge.runtimes.backends.tensorrt.tensorrt_module import platform_here

    if cuda is not None:
        return platform_here(flavour, trt, cuda.gpu)
    if target.compute_capability is None:
        raise InputError(f"`target={target.name}` is the GPU that is here, and there is none; name another target")
    return EnginePlatform(flavour, str(trt.__version__), "any", target.compute_capability)


def choose_workspace(target: Target, asked: int | None, needed: Mapping[str, GraphMemory]) -> int:
    """Bytes of the workspace: what was asked for in MB, or the target's, or as much as a graph needs.

    TensorRT compiles a whole graph to one block, whose intermediate results have to fit.
    """
    name = max(needed, key=lambda graph: needed[graph].scratch)
    scratch = needed[name].scratch
    if asked is None:
        return max(target.workspace, scratch)
    if asked * MEBIBYTE < scratch:
        logger.warning(
            "graph %s needs about %d MB for intermediate results, more than a workspace of %d MB: if the build fails, "
            "give it more, or build for fewer objects",
            name,
            -(-scratch // MEBIBYTE),
            asked,
        )
    return asked * MEBIBYTE


def _warn_of_memory(needed: Mapping[str, GraphMemory], free: int, objects: int) -> None:
    """Warn where less memory is free than the build is estimated to need: the system may end the process."""
    name = max(needed, key=lambda graph: needed[graph].to_build)
    if needed[name].to_build > free:
        logger.warning(
            "building %s for %d objects needs about %d MB, and %d MB are free: close other programs, or build for "
            "fewer objects",
            name,
            objects,
            needed[name].to_build // MEBIBYTE,
            free // MEBIBYTE,
        )


def available_memory(cuda: Cuda, root: Path = ROOT) -> int:
    """Bytes that a program can allocate on a GPU now.

    On a GPU that shares the CPU's memory, CUDA does not count what the system holds as a cache and gives up on demand.
    """
    free, _ = cuda.memory()
    if not cuda.gpu.integrated:
        return free
    try:
        match = re.search(
            r"^MemAvailable:\s+(\d+) kB$", (root / "proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        match = None
    return max(free, int(match[1]) * 1024) if match else free


def _warn_of_version(target: Target, platform: EnginePlatform) -> None:
    """Warn where a TensorRT is outside of what the target is known to take."""
    if platform.flavour != TENSORRT:
        return
    oldest, newest = (version_numbers(text) for text in target.tensorrt)
    found = version_numbers(platform.tensorrt)
    if found[: len(oldest)] < oldest or found[: len(newest)] > newest:
        logger.warning(
            "TensorRT %s is outside of %s, which %s is known to take; check the accuracy with etam-edge check",
            platform.tensorrt,
            " to ".join(target.tensorrt),
            target.name,
        )
