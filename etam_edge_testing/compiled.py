"""Graphs compiled by TensorRT for RTX, ahead of time and without a GPU: their layers and what these move."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from etam_edge.bundle import Bundle, GraphSignature
from etam_edge.exporters.passes.base import fix_objects
from etam_edge.exporters.tensorrt.builder import BuildOptions, Built, build_engine
from etam_edge.exporters.tensorrt.layer_types import GraphLayers, layers, summarize
from etam_edge.runtimes.backends.tensorrt.tensorrt_module import import_tensorrt

A100 = (8, 0)
OBJECTS = 2
"""Objects of `compile_fixed`. TensorRT fuses no attention over a batch axis of one."""


def compile_fixed(model: onnx.ModelProto, signature: GraphSignature, objects: int = OBJECTS) -> Built:
    """Compile a graph for a fixed number of objects, so that the log has the size of every tensor.

    Args:
        model: the graph; its object axis gets a size, in place.
        signature: of the graph.
        objects: the number.
    """
    fix_objects(model, objects)
    options = BuildOptions(compute_capabilities=(A100,), verbose=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(model, path)
        return build_engine(import_tensorrt("tensorrt-rtx"), path, signature.sized(objects), options)


def summary_of(bundle: Bundle, graph: str) -> GraphLayers:
    """What a graph of a bundle is compiled to, for `OBJECTS` objects."""
    signature = bundle.manifest.graphs[graph].signature
    return summarize(layers(compile_fixed(onnx.load(bundle.graph_path(graph)), signature).log))
