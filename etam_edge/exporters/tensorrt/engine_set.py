"""The engines of a bundle: all four graphs built, with sidecars, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from etam_edge.atomic import atomic_file
from etam_edge.bundle import GRAPH_NAMES, Bundle, sha256_of
from etam_edge.bundle.engines import EnginePlatform, Sidecar, timing_cache_path, writing_engines
from etam_edge.exporters.tensorrt.builder import BuildOptions, Built, Progress, build_engine

GraphProgress = Callable[[str, str, int, int], None]
"""Told a graph, a phase of its build, steps done and steps in all."""
Inspect = Callable[[Path], int]
"""Loads an engine file on the GPU and answers the bytes that it needs there to run."""


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
        trt: the module.
        platform: what the engines will belong to.
        inspect: tries each engine before it counts as built; None where there is no GPU to load it.

    Raises:
        InputError: engines are there already, or the bundle cannot be written.
        ExportError: a graph cannot be built; nothing is left of the others.
        KeyboardInterrupt: it was cancelled, in the same way.
    """
    found: dict[str, Built] = {}
    timings = timing_cache_path(bundle, platform)
    with writing_engines(bundle, platform, overwrite) as draft:
        for name in GRAPH_NAMES:
            if cancelled():
                raise KeyboardInterrupt
            entry = bundle.manifest.graphs[name]
            found[name] = build_engine(
                trt,
                bundle.graph_path(name),
                entry.signature,
                options,
                timings.read_bytes() if timings.is_file() else b"",
                _of(name, progress),
                cancelled,
            )
            path = draft / f"{name}.engine"
            path.write_bytes(found[name].plan)
            sidecar = Sidecar(
                platform=platform,
                graph_sha256=entry.sha256,
                sha256=sha256_of(path),
                size=path.stat().st_size,
                max_objects=options.max_objects,
                precision=bundle.manifest.precision,
                device_memory=inspect(path) if inspect is not None else 0,
                etam_edge=version("etam-edge"),
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )
            path.with_suffix(".json").write_text(sidecar.to_json(), encoding="utf-8")
            if found[name].timing_cache:
                _keep(timings, found[name].timing_cache)
    return found


def _of(graph: str, progress: GraphProgress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda phase, done, steps: progress(graph, phase, done, steps)


def _keep(path: Path, content: bytes) -> None:
    """Timings are kept even where a later graph fails: the next build is faster for them."""
    with atomic_file(path) as file:
        file.write(content)
