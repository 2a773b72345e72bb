"""Engines built from graphs by TensorRT 8.6, 10, 11 or TensorRT for RTX, on the machine that will run them.

The graphs carry their types. From TensorRT 10 on, networks are strongly typed and the builder keeps the types; for 8.6
the type of every layer is set as a constraint (`obey_types`). Neither torch nor onnx is imported, so that a Jetson can
build engines without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etam_edge.bundle import OBJECTS, GraphSignature
from etam_edge.bundle.targets import version_numbers
from etam_edge.errors import ExportError, InputError
from etam_edge.exporters.tensorrt.weak_typing import obey_types, weights_are_half
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import create_builder

Progress = Callable[[str, int, int], None]
"""Called with a phase of the build, the number of its steps that are done, and the number of its steps."""
OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "insufficient workspace",
    "cudaerrormemory",
    "cuda_error_out_of_memory",
)
"""Words of TensorRT's messages about lack of memory, in lower case."""
OPTIMIZATION_LEVELS = range(6)
"""Levels of TensorRT's builder: from 0, which takes the first kernel that works, to 5, which tries most."""
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0))
"""Compute capabilities that TensorRT for RTX compiles for ahead of time, without a GPU."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        max_objects: largest number of objects in one call.
        opt_objects: number of objects that kernels are optimised for.
        workspace: largest workspace of a layer, in bytes.
        compute_capabilities: (major, minor) pairs to compile for with TensorRT for RTX. TensorRT builds for the GPU of
            this machine.
        verbose: keep TensorRT's complete log, with the types of every layer.
        optimization_level: how many kernels TensorRT tries for a layer, 0 to 5; None for its default, 3. Lower levels
            build faster and may run slower.
        external_tactics: whether kernels of cuBLAS and cuDNN may be used, as TensorRT does by default; False builds
            where these libraries are not installed.
        tf32: compute float32 products in TF32. It holds for all of a graph.

    Raises:
        InputError: `opt_objects` is not between 1 and `max_objects`, the workspace is below 1 MiB, or the level is
            none of TensorRT's.
    """

    max_objects: int = 8
    opt_objects: int = 1
    workspace: int = 2 << 30
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    verbose: bool = False
    optimization_level: int | None = None
    external_tactics: bool = True
    tf32: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.opt_objects <= self.max_objects:
            raise InputError(
                f"engines for 1 to {self.max_objects} objects cannot be tuned for {self.opt_objects}; "
                "choose `max_objects` of at least 1, and `opt_objects` from 1 to it"
            )
        if self.workspace < 1 << 20:
            raise InputError(f"a workspace of {self.workspace} bytes is too small; give `workspace` in MB, 256 or more")
        if self.optimization_level is not None and self.optimization_level not in OPTIMIZATION_LEVELS:
            raise InputError(
                f"`optimization_level={self.optimization_level}` is none of TensorRT's; give a number from 0 to 5"
            )


@dataclass(frozen=True)
class Built:
    """A built engine.

    Attributes:
        plan: the serialized engine.
        timing_cache: timings of kernels, for the next build on the same GPU; empty if there are none.
        log: TensorRT's messages, (severity, text).
    """

    plan: bytes
    timing_cache: bytes
    log: tuple[tuple[str, str], ...]


def build_engine(
    trt: Any,
    graph: Path,
    signature: GraphSignature,
    options: BuildOptions,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Built:
    """Build an engine of one graph.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        graph: path of the ONNX file.
        signature: of the graph, for the shapes of the object axis.
        options: of the build.
        timing_cache: of an earlier build on the same GPU; used if TensorRT accepts it.
        progress: called during the build, from TensorRT 10 on.
        cancelled: polled between steps, from TensorRT 10 on; true ends the build.

    Raises:
        ExportError: TensorRT cannot parse or build the graph; the message contains the node and TensorRT's messages.
        KeyboardInterrupt: the build was cancelled.
    """
    log = _log(trt, options.verbose)
    builder: Any = create_builder(trt, log)
    network = _parse(trt, builder, graph, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    # Regions are fp32 because they need the precision. By itself TensorRT would take TF32, with the digits of fp16.
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if not options.external_tactics:
        _leave_out_external_tactics(trt, config)
    profile = _profile(builder, signature, options)
    if profile is not None:
        config.add_optimization_profile(profile)
    if is_weakly_typed(trt):
        obey_types(trt, network, config)
    if options.compute_capabilities:
        _compile_for(trt, config, options.compute_capabilities)
    if options.verbose:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT for RTX chooses kernels on the machine that runs the engine, so there are no timings.
    cache = not is_rtx(trt) and _use_timing_cache(config, timing_cache)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, progress, cancelled)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if cancelled():
            raise KeyboardInterrupt
        raise ExportError(_build_error(graph, log, options, str(trt.__version__)))
    kept = cache and config.get_timing_cache()
    return Built(bytes(plan), bytes(kept.serialize()) if kept else b"", tuple(log.lines))


def parse_graph(trt: Any, graph: Path) -> dict[str, int]:
    """Parse a graph without building an engine of it.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        graph: path of the ONNX file.

    Returns:
        the numbers of "layers", of "half constants", whose weights are half-precision, and of "half constants reported
        as FLOAT": 8.6 reports them so (NVIDIA/TensorRT#1993).

    Raises:
        ExportError: TensorRT cannot parse the graph; the message contains the node.
        RuntimeUnavailableError: TensorRT does not start with this NVIDIA driver.
    """
    log = _log(trt, verbose=False)
    builder: Any = create_builder(trt, log)
    network = _parse(trt, builder, graph, log)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    constants = [layer for layer in layers if layer.type == trt.LayerType.CONSTANT]
    reported = [layer.get_output(0).dtype for layer in constants if weights_are_half(trt, layer)]
    return {
        "layers": len(layers),
        "half constants": len(reported),
        "half constants reported as FLOAT": sum(dtype == trt.DataType.FLOAT for dtype in reported),
    }


def _parse(trt: Any, builder: Any, graph: Path, log: Any) -> Any:
    """The network of a graph.

    Raises:
        ExportError: TensorRT cannot parse it.
    """
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT {trt.__version__} cannot parse {graph.name}: {_parser_errors(parser)}")
    return network


def _leave_out_external_tactics(trt: Any, config: Any) -> None:
    """Use no kernels of cuBLAS and cuDNN. From TensorRT 10 on they are off by default, and 11 has no such sources."""
    if is_weakly_typed(trt):
        own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
        config.set_tactic_sources(sum(1 << int(source) for source in own))


def is_weakly_typed(trt: Any) -> bool:
    """Whether this is TensorRT 8, which treats types as hints unless every layer is constrained."""
    return not is_rtx(trt) and version_numbers(str(trt.__version__))[0] < 10


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def _creation_flags(trt: Any) -> int:
    major = version_numbers(str(trt.__version__))[0]
    # TensorRT for RTX and TensorRT 11 have only strongly typed networks with an explicit batch.
    if is_rtx(trt) or major >= 11:
        return 0
    if major >= 10:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def _profile(builder: Any, signature: GraphSignature, options: BuildOptions) -> Any | None:
    """An optimisation profile for 1 to `max_objects` objects, or None if the graph has no object axis."""
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
    """Refuse compute capabilities that TensorRT for RTX does not compile for ahead of time.

    Raises:
        InputError: names the first of them, and those that are supported.
    """
    for major, minor in capabilities:
        if (major, minor) not in RTX_CAPABILITIES:
            known = ", ".join(f"{a}.{b}" for a, b in RTX_CAPABILITIES)
            raise InputError(
                f"TensorRT for RTX does not compile for compute capability {major}.{minor} (it does for {known}); "
                "choose another `target`, or `runtime=tensorrt` on that machine"
            )


def _compile_for(trt: Any, config: Any, capabilities: tuple[tuple[int, int], ...]) -> None:
    check_capabilities(capabilities)
    config.num_compute_capabilities = len(capabilities)
    for index, (major, minor) in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), index)


def _use_timing_cache(config: Any, content: bytes) -> bool:
    """Give the builder a timing cache; whether it accepted one."""
    cache = config.create_timing_cache(content)
    # TensorRT rejects a cache of another GPU or version; an empty one replaces it.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        return bool(cache is not None and config.set_timing_cache(cache, False))
    return True


def _monitor(trt: Any, progress: Progress | None, cancelled: Callable[[], bool]) -> Any:
    """A progress monitor that reports steps and ends the build when it is cancelled."""

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
    """A logger that keeps warnings and errors, or all messages, in `lines`."""
    least = trt.ILogger.VERBOSE if verbose else trt.ILogger.WARNING

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            # Lower numbers are more severe: internal error 0, error 1, warning 2, info 3, verbose 4.
            if int(severity) <= int(least):
                self.lines.append((str(severity).rsplit(".", maxsplit=1)[-1], text))

    return Log()


def _parser_errors(parser: Any) -> str:
    """The parser's first errors, with the names of their nodes."""
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
        texts.append(f"{name}: {error.desc()}")
    return "; ".join(texts[:3]) or "TensorRT gave no reason"


def _build_error(graph: Path, log: Any, options: BuildOptions, version: str) -> str:
    """The error message for a failed build."""
    errors = [text for severity, text in log.lines if severity in ("ERROR", "INTERNAL_ERROR")]
    text = "; ".join(errors[-3:]) or "TensorRT gave no reason"
    if any(word in text.lower() for word in OUT_OF_MEMORY):
        return (
            f"not enough memory to build {graph.name} with a workspace of {options.workspace >> 20} MB and up to "
            f"{options.max_objects} objects: {text}; lower `max_objects`, close other programs, or raise `workspace` "
            "if there is free memory"
        )
    return f"TensorRT {version} cannot build {graph.name}: {text}"
