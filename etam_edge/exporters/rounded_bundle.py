"""A bundle whose fp16 and TF32 regions round as a GPU rounds, for measuring accuracy on a CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from etam_edge.bundle import MANIFEST, Bundle, sha256_of, writing
from etam_edge.exporters.passes.base import run_passes
from etam_edge.exporters.passes.round_to_float16 import round_to_float16
from etam_edge.exporters.passes.round_to_tf32 import PRODUCTS, RoundToTf32
from etam_edge.exporters.regions import region_of
from etam_edge.recipe import TF32


def rounded_bundle(source: Bundle, output: Path) -> Bundle:
    """Write a copy of a bundle whose fp16 regions round to float16 after every operation, and TF32 regions the factors
    of every product.

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
            model = onnx.load(source.graph_path(name))
            products = _tf32_products(source, name, model)
            onnx.save(run_passes(model, (round_to_float16, RoundToTf32(products))).model, path)
            entries[name] = dataclasses.replace(entry, sha256=sha256_of(path))
        manifest = dataclasses.replace(source.manifest, graphs=entries, answer=None)
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.load(output)


def _tf32_products(bundle: Bundle, graph: str, model: onnx.ModelProto) -> list[str]:
    """Names of the products of a graph whose region is TF32."""
    manifest = bundle.manifest
    if not manifest.recipe.tf32:
        return []
    names = (node.name for node in model.graph.node if node.op_type in PRODUCTS)
    return [name for name in names if manifest.recipe.regions[region_of(graph, name, manifest.model)] == TF32]
