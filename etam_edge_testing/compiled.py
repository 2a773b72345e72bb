"""Graphs compiled by TensorRT for RTX, ahead of time and without a GPU: their layers and what these move."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import onnx

from etam_edge.bundle import Bundle, GraphSignature, TensorSpec
from etam_edge.exporters.passes.base import fix_objects
from etam_edge.exporters.tensorrt.builder import BuildOptions, Built, build_engine
from etam_edge.exporters.tensorrt.layer_types import GraphLayers, Layer, layers, summarize

A100, SM86 = (8, 0), (8, 6)


def compile_graph(bundle: Bundle, graph: str, capability: tuple[int, int] = A100, objects: int | None = None) -> Built:
    """Compile a graph of a bundle, with a complete log.

    Args:
        bundle: whose graph it is.
        graph: its name.
        capability: compute capability; only one, because of several the log shows the layers of one.
        objects: number of objects that the graph is fixed to, so that all sizes are known; None compiles it for 1 to 4.
    """
    import tensorrt_rtx as trt

    options = BuildOptions(max_objects=4, compute_capabilities=(capability,), verbose=True)
    path, signature = bundle.graph_path(graph), bundle.manifest.graphs[graph].signature
    if objects is None:
        return build_engine(trt, path, signature, options)
    with tempfile.TemporaryDirectory() as folder:
        model = onnx.load(path)
        fix_objects(model, objects)
        onnx.save(model, Path(folder) / path.name)
        return build_engine(trt, Path(folder) / path.name, _sized(signature, objects), options)


def compiled_layers(bundle: Bundle, graph: str, capability: tuple[int, int] = A100) -> list[Layer]:
    """The layers of a graph that is compiled for 1 to 4 objects. Arguments as of `compile_graph`.

    Raises:
        AssertionError: the compiler warned.
    """
    built = compile_graph(bundle, graph, capability)
    bad = [text for severity, text in built.log if severity in ("WARNING", "ERROR", "INTERNAL_ERROR")]
    assert not bad, bad
    assert len(built.plan) > 10_000
    return layers(built.log)


def summary_of(bundle: Bundle, graph: str, objects: int = 2) -> GraphLayers:
    """What a graph is compiled to for a number of objects. (TensorRT fuses no attention over a batch axis of one.)"""
    return summarize(layers(compile_graph(bundle, graph, objects=objects).log))


def _sized(signature: GraphSignature, objects: int) -> GraphSignature:
    def tensors(rows: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(row, shape=row.sized(objects)) for row in rows)

    return GraphSignature(tensors(signature.inputs), tensors(signature.outputs))
