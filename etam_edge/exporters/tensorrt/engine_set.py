"""Engines of all four graphs of a bundle, written together with their sidecars, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from etam_edge import __version__
from etam_edge.atomic import atomic_file
from etam_edge.bundle import GRAPH_NAMES, Bundle, sha256_of
from etam_edge.bundle.engines import ONE_OBJECT, EnginePlatform, Sidecar, timing_cache_path, writing_engines
from etam_edge.bundle.targets import version_numbers
from etam_edge.errors import ExportError
from etam_edge.exporters.tensorrt.builder import BuildOptions, Built, Progress, build_engine, is_weakly_typed
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import create_runtime, device_memory_of

TENSORRT_8_OPSET = 17
"""The newest opset that TensorRT 8.6 reads."""
TF32_GRAPHS = ("prompt", "track")
"""Graphs of the region that can be TF32, the mask decoder."""
GraphProgress = Callable[[str, str, int, int], None]
"""Called with a graph, a phase of its build, the steps done and the number of steps."""
Inspect = Callable[[Path], int]
"""Loads an engine file on the GPU and returns the bytes of device memory that it needs to run."""


def build_engines(
    trt: Any,
    bundle: Bundle,
    platform: EnginePlatform,
    options: BuildOptions,
    overwrite: bool = False,
    inspect: Inspect | None = None,
    progress: GraphProgress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Built]:
    """Build every graph of a bundle for one TensorRT and one GPU.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        bundle: the bundle; the engines are written to it.
        platform: TensorRT version and GPU of the engines.
        options: of the build.
        overwrite: replace existing engines of this platform.
        inspect: loads each engine to check it; None if there is no GPU.
        progress: called during the build.
        cancelled: polled during the build; true ends it.

    Returns:
        the engines by graph.

    Raises:
        InputError: engines exist already, or the bundle cannot be written.
        ExportError: a graph cannot be built; no engine is written.
        KeyboardInterrupt: the build was cancelled; no engine is written.
    """
    found: dict[str, Built] = {}
    with writing_engines(bundle, platform, overwrite) as draft:
        for name in GRAPH_NAMES:
            if cancelled():
                raise KeyboardInterrupt
            shown = _of(name, progress)
            found[name] = write_engine(trt, bundle, name, platform, options, draft, inspect, shown, cancelled)
            if found[name].timing_cache:
                _store_timings(timing_cache_path(bundle, platform), found[name].timing_cache)
    return found


def write_engine(
    trt: Any,
    bundle: Bundle,
    name: str,
    platform: EnginePlatform,
    options: BuildOptions,
    folder: Path,
    inspect: Inspect | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Built:
    """Build one graph of a bundle, and write the engine and its sidecar to a folder.

    Args:
        name: of the graph.
        trt, bundle, platform, options, inspect, progress, cancelled: as of `build_engines`. Engines of the graphs of
            `ONE_OBJECT` take one object, whatever the options say.
        folder: existing folder.

    Raises:
        ExportError: the graph cannot be built.
        KeyboardInterrupt: the build was cancelled.
    """
    if name in ONE_OBJECT:
        options = replace(options, max_objects=1, opt_objects=1)
    elif name == "prompt":
        # Sessions run it for one object at a time; only prompts on single images come in batches.
        options = replace(options, opt_objects=1)
    if is_weakly_typed(trt):
        check_opsets(bundle, str(trt.__version__))
    options = replace(options, tf32=name in TF32_GRAPHS and bundle.manifest.recipe.tf32)
    entry = bundle.manifest.graphs[name]
    timings = timing_cache_path(bundle, platform)
    cache = timings.read_bytes() if timings.is_file() else b""
    built = build_engine(trt, bundle.graph_path(name), entry.signature, options, cache, progress, cancelled)
    path = folder / f"{name}.engine"
    path.write_bytes(built.plan)
    sidecar = Sidecar(
        platform=platform,
        graph_sha256=entry.sha256,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        max_objects=options.max_objects,
        precision=bundle.manifest.precision,
        device_memory=inspect(path) if inspect is not None else 0,
        etam_edge=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    path.with_suffix(".json").write_text(sidecar.to_json(), encoding="utf-8")
    return built


def check_opsets(bundle: Bundle, version: str) -> None:
    """Refuse graphs that are newer than a TensorRT reads.

    Raises:
        ExportError: names the graph, and how the bundle has to be made.
    """
    if version_numbers(version) >= (10,):
        return
    for name, entry in bundle.manifest.graphs.items():
        if entry.opset > TENSORRT_8_OPSET:
            raise ExportError(
                f"graph '{name}' has opset {entry.opset}, which TensorRT {version} does not read; make the bundle "
                "again with: etam-edge quantize FP32_BUNDLE --calibration CLIPS --oldest-tensorrt 8.6"
            )


def engine_inspector(trt: Any) -> Inspect:
    """Loads an engine on the GPU, to see that it can be, and returns the bytes of device memory that it needs.

    Args:
        trt: the module `tensorrt`.
    """

    def inspect(path: Path) -> int:
        runtime: Any = create_runtime(trt, trt.Logger(trt.ILogger.ERROR))
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ExportError(f"TensorRT {trt.__version__} does not load the engine that it built of {path.stem}")
        return device_memory_of(engine)

    return inspect


def _of(graph: str, progress: GraphProgress | None) -> Progress | None:
    """The progress callback of one graph."""
    if progress is None:
        return None
    return lambda phase, done, steps: progress(graph, phase, done, steps)


def _store_timings(path: Path, content: bytes) -> None:
    """Write the timing cache. It is kept even if a later graph fails, and makes the next build faster."""
    with atomic_file(path) as file:
        file.write(content)
