"""How much a frame has to multiply: floating-point operations of the graphs, and what that takes at a GPU's limit."""

from __future__ import annotations

from typing import Any

from benchmarks.settings import Part, Settings
from benchmarks.tables import table
from etam_edge.bundle import Bundle
from etam_edge.exporters.arithmetic import FRAME_GRAPHS, frame_operations
from etam_edge.recipe import FP32

LIMITS = {"A100, fp16": 312.0}
"""TFLOPS of dense products by the maker's data sheet."""


def run(settings: Settings) -> Part:
    """One object, all slots of memory read. Counts products alone: MatMul, Gemm, Conv and ConvTranspose.

    Raises:
        EtamError: a bundle cannot be made.
    """
    results: dict[str, Any] = {}
    rows = []
    for name in settings.models:
        counts = frame_operations(Bundle.load(settings.bundles.get(name, FP32)))
        whole = sum(counts.values())
        results[name] = counts
        limits = [f"{whole / 1e9 / limit:.2f}" for limit in LIMITS.values()]
        rows.append([name, *(f"{count / 1e9:.1f}" for count in counts.values()), f"{whole / 1e9:.1f}", *limits])
    header = ["model", *(f"`{graph}`, GFLOP" for graph in FRAME_GRAPHS), "a frame", *(f"ms on {gpu}" for gpu in LIMITS)]
    return Part("Arithmetic of a frame", results, [table("one object, products alone", header, rows)])
