"""Which operators a frame's time goes to, as ONNX Runtime counts it while it runs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.session_options import load_with
from benchmarks.settings import Part, Settings, counted
from benchmarks.tables import table
from etam_edge import follow
from etam_edge.benchmark.clip import drawn_clip
from etam_edge.recipe import FP32, INT8
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend

GRAPHS = ("encode", "track")
MAX_OPERATORS = 12
KERNEL = "_kernel_time"
"""Ends the name of the event that is a node's own computation."""


def run(settings: Settings) -> Part:
    """One object, memory full. Counting takes time itself: shares count.

    Raises:
        EtamError: a bundle cannot be made or used.
    """
    results: dict[str, Any] = {}
    tables = []
    for name in settings.models:
        for word in (kind for kind in (FP32, INT8) if not settings.candidates or kind in settings.candidates):
            path = settings.bundles.get(name, word)
            found = profile(path, settings)
            results[f"{name}, {word}"] = found
            whole = sum(sum(operators.values()) for operators in found.values())
            for graph, operators in found.items():
                rows = [
                    [kind, f"{spent:.1f}", f"{spent / whole:.0%}"]
                    for kind, spent in Counter(operators).most_common(MAX_OPERATORS)
                ]
                title = f"{name} in {word}, `{graph}`, mean of {settings.frames} frames"
                tables.append(table(title, ["operator", "ms", "of the frame's"], rows))
    return Part("Operators of a frame", results, tables)


def profile(path: Path, settings: Settings) -> dict[str, dict[str, float]]:
    """Milliseconds a frame by graph and operator, mean over the frames after the warm-up.

    Raises:
        EtamError: the bundle cannot be used.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    tracker = load_with(profile=settings.output / "profile")(path, settings.threads)
    size = tracker.spec.image_size
    clip = drawn_clip((size, size))
    session = tracker.start_session(max_objects=1)
    frames = settings.warm_up + settings.frames
    with counted(f"{path.name}, profile", frames) as advance:
        pixels = (frame.pixels for frame in clip.frames())
        for _ in follow(session, pixels, prompts=clip.prompts(1), max_frames=frames):
            advance("frames")
    if not isinstance(tracker.backend, OnnxRuntimeBackend):
        raise TypeError("only ONNX Runtime is profiled")
    files = tracker.backend.end_profiling()
    found = {graph: by_operator(json.loads(files[graph].read_text()), settings.frames) for graph in GRAPHS}
    for file in files.values():
        file.unlink()
    return found


def by_operator(events: list[Mapping[str, Any]], frames: int) -> dict[str, float]:
    """Milliseconds a frame by operator, over the last so many runs of every node."""
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            runs[event["name"]].append(event)
    spent: Counter[str] = Counter()
    for of_node in runs.values():
        for event in of_node[-frames:]:
            spent[event["args"]["op_name"]] += event["dur"] / 1e3 / frames
    return dict(spent)
