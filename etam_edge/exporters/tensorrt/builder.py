"""Engines from graphs, by TensorRT 8.6, 10, 11 or TensorRT for RTX, on the machine that will run them.

The graphs carry their types. From TensorRT 10 on networks are strongly typed and the builder obeys; 8.6 is told layer
by layer what the graph says (`obey_types`). Neither torch nor onnx is imported: a Jetson has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etam_edge.bundle import OBJECTS, GraphSignature
from etam_edge.bundle.targets import version_numbers
from etam_edge.errors import ExportError, InputError
from etam_edge.exporters.tensorrt.weak_typing import obey_types

Progress = Callable[[str, int, int], None]
"""Told a phase of the build, how many of its steps are done, and how many there are."""
OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "cudaerrormemory")
"""What TensorRT says of it, in lower case."""
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0))
"""Compute capabilities that TensorRT for RTX compiles for ahead of time, with no GPU at hand."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build is asked for.

    Attributes:
        max_objects: most objects of one call.
        opt_objects: objects that kernels are chosen for.
        workspace: bytes that a layer may use, at most.
        compute_capabilities: to compile for, with TensorRT for RTX; TensorRT builds for the GPU that is here.
        verbose: keep TensorRT's own log, with the types of every layer.
    """

    max_objects: int = 8
    opt_objects: int = 1
    workspace: int = 2 << 30
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    verbose: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.opt_objects <= self.max_objects:
            raise InputError(
                f"engines for 1 to {self.max_objects} objects cannot be tuned for {self.opt_objects}; "
                "choose --max-objects of at least 1, and --opt-objects between"
            )
        if self.workspace < 1 << 20:
            raise InputError(
                f"a workspace of {self.workspace} bytes is too little; give --workspace in MB, 256 or more"
            )


@dataclass(frozen=True)
class Built:
    """An engine and what TensorRT said while it made it."""

    plan: bytes
    timing_cache: bytes
    log: tuple[tuple[str, str], ...]
    """(severity, line)"""


def build_engine(
    trt: Any,
    graph: Path,
    signature: GraphSignature,
    options: BuildOptions,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Built:
    """One graph to an engine.

    Args:
        trt: the module, of `cuda.tensorrt_module.import_tensorrt`.
        graph: its ONNX file.
        signature: of the graph, for the shapes of the object axis.
        timing_cache: of an earlier build on the same GPU; reused where TensorRT takes it.
        progress: told what TensorRT is doing, from version 10 on.
        cancelled: asked between steps, from version 10 on; true ends the build.

    Raises:
        ExportError: TensorRT refuses the graph, or cannot build it; the node and TensorRT's own words are named.
        KeyboardInterrupt: it was cancelled.
    """
    log = _log(trt, options.verbose)
    builder = trt.Builder(log)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT {trt.__version__} refuses {graph.name}: {_parser_errors(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    # fp32 regions are fp32 because they need it: TF32 keeps no more digits than fp16.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = _profile(builder, signature, options)
    if profile is not None:
        config.add_optimization_profile(profile)
    if is_weakly_typed(trt):
        obey_types(trt, network, config)
    if options.compute_capabilities:
        _compile_for(trt, config, options.compute_capabilities)
    if options.verbose:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT for RTX chooses kernels where it runs, and has no timings to keep.
    cache = not is_rtx(trt) and _use_timing_cache(config, timing_cache)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, progress, cancelled)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if cancelled():
            raise KeyboardInterrupt
        raise ExportError(_why(graph, log, options, str(trt.__version__)))
    kept = cache and config.get_timing_cache()
    return Built(bytes(plan), bytes(kept.serialize()) if kept else b"", tuple(log.lines))


def is_weakly_typed(trt: Any) -> bool:
    """Whether this is TensorRT 8: it takes types as advice unless every layer is told to obey."""
    return not is_rtx(trt) and version_numbers(str(trt.__version__))[0] < 10


def is_rtx(trt: Any) -> bool:
    return str(trt.__name__).startswith("tensorrt_rtx")


def _creation_flags(trt: Any) -> int:
    major = version_numbers(str(trt.__version__))[0]
    # TensorRT for RTX and 11 know no other network than a strongly typed one with an explicit batch.
    if is_rtx(trt) or major >= 11:
        return 0
    if major >= 10:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def _profile(builder: Any, signature: GraphSignature, options: BuildOptions) -> Any | None:
    """Shapes for 1 to N objects, or None where the graph has no object axis."""
    dynamic = [tensor for tensor in signature.inputs if OBJECTS in tensor.shape]
    if not dynamic:
        return None
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        profile.set_shape(
            tensor.name, tensor.sized(1), tensor.sized(options.opt_objects), tensor.sized(options.max_objects)
        )
    return profile


def check_capabilities(capabilities: Iterable[tuple[int, int]]) -> None:
    """
    Raises:
        InputError: TensorRT for RTX does not compile for one of them ahead of time.
    """
    for major, minor in capabilities:
        if (major, minor) not in RTX_CAPABILITIES:
            known = ", ".join(f"{a}.{b}" for a, b in RTX_CAPABILITIES)
            raise InputError(
                f"TensorRT for RTX does not compile for compute capability {major}.{minor} (it does for {known}); "
                "choose another --target, or --runtime tensorrt on that machine"
            )


def _compile_for(trt: Any, config: Any, capabilities: tuple[tuple[int, int], ...]) -> None:
    check_capabilities(capabilities)
    config.num_compute_capabilities = len(capabilities)
    for index, (major, minor) in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), index)


def _use_timing_cache(config: Any, content: bytes) -> bool:
    """Whether this builder keeps timings."""
    cache = config.create_timing_cache(content)
    # One of another GPU or version is not taken: then an empty one is begun.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        return bool(cache is not None and config.set_timing_cache(cache, False))
    return True


def _monitor(trt: Any, progress: Progress | None, cancelled: Callable[[], bool]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            if progress is not None:
                progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if progress is not None:
                progress(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _log(trt: Any, verbose: bool) -> Any:
    """A logger that keeps what it is told: warnings and errors, or everything."""
    least = trt.ILogger.VERBOSE if verbose else trt.ILogger.WARNING

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            # Severities fall: internal error 0, error 1, warning 2, info 3, verbose 4.
            if int(severity) <= int(least):
                self.lines.append((str(severity).rsplit(".", maxsplit=1)[-1], text))

    return Log()


def _parser_errors(parser: Any) -> str:
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
        texts.append(f"{name}: {error.desc()}")
    return "; ".join(texts[:3]) or "no reason was given"


def _why(graph: Path, log: Any, options: BuildOptions, version: str) -> str:
    said = [text for severity, text in log.lines if severity in ("ERROR", "INTERNAL_ERROR")]
    text = "; ".join(said[-3:]) or "no reason was given"
    if any(word in text.lower() for word in OUT_OF_MEMORY):
        return (
            f"there is too little memory to build {graph.name} with a workspace of {options.workspace >> 20} MB and up "
            f"to {options.max_objects} objects: {text}; lower --workspace or --max-objects, or close other programs"
        )
    return f"TensorRT {version} cannot build {graph.name}: {text}"
