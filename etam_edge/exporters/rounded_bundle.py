"""A bundle whose fp16 regions round as a GPU rounds, for measuring accuracy on a CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from etam_edge.bundle import MANIFEST, Bundle, sha256_of, writing
from etam_edge.exporters.passes.round_to_float16 import round_to_float16


def rounded_bundle(source: Bundle, output: Path) -> Bundle:
    """Write a copy of a bundle whose fp16 regions round to float16 after every operation.

    It measures accuracy, not speed: the rounding takes longer than the arithmetic.

    Args:
        source: a bundle of any precision.
        output: directory of the copy; it appears when all is written.

    Raises:
        InputError: the output exists or cannot be written.
    """
    with writing(output) as draft:
        (draft / "graphs").mkdir()
        entries = {}
        for name, entry in source.manifest.graphs.items():
            path = draft / entry.file
            onnx.save(round_to_float16(onnx.load(source.graph_path(name))).model, path)
            entries[name] = dataclasses.replace(entry, sha256=sha256_of(path))
        manifest = dataclasses.replace(source.manifest, graphs=entries, answer=None)
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.load(output)
