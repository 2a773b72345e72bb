"""fp16 arithmetic on a processor that has none.

ONNX Runtime computes fp16 regions in fp32 on such a processor and rounds only where a region ends, so a track survives
there that a GPU would lose: 1000 * 1000 is no infinity. `rounded` makes the same graph round to float16 after every
operation. Sums inside a multiplication stay fp32, as tensor cores keep them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from etam_edge.bundle import MANIFEST, Bundle, sha256_of, writing

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
EXACT = frozenset({"Reshape", "Transpose", "Slice", "Concat", "Gather", "Unsqueeze", "Squeeze", "Expand", "Where"})
"""Operators that only move values."""


def rounded_bundle(source: Bundle, output: Path) -> Bundle:
    """The same bundle, its fp16 regions rounding after every operation. For measuring accuracy, not for speed.

    Raises:
        InputError: the output is taken or cannot be written.
    """
    with writing(output) as draft:
        (draft / "graphs").mkdir()
        entries = {}
        for name, entry in source.manifest.graphs.items():
            path = draft / entry.file
            onnx.save(rounded(onnx.load(source.graph_path(name))), path)
            entries[name] = dataclasses.replace(entry, sha256=sha256_of(path))
        manifest = dataclasses.replace(source.manifest, graphs=entries)
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.load(output)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every float16 tensor as a float32 one that holds only values of float16."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == HALF}
    constants = [
        tensor
        if tensor.data_type != HALF
        else numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        for tensor in model.graph.initializer
    ]
    # Inputs and outputs keep their names and types; inside, the names stand for float32.
    inside = {value.name: f"{value.name}:inside" for value in (*model.graph.input, *model.graph.output)}
    inside = {name: inner for name, inner in inside.items() if name in halves}
    nodes = [
        helper.make_node("Cast", [value.name], [inside[value.name]], to=FLOAT)
        for value in model.graph.input
        if value.name in inside
    ]
    for node in model.graph.node:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [inside.get(name, name) for name in node.input]
        made.output[:] = [inside.get(name, name) for name in node.output]
        nodes.append(made)
        to_half = node.op_type == "Cast" and made.attribute[0].i == HALF
        if to_half or (node.op_type not in EXACT and node.op_type != "Cast"):
            for place, name in enumerate(node.output):
                if name in halves:
                    nodes += _round(made, place, already_half=to_half)
    nodes += [
        helper.make_node("Cast", [inside[value.name]], [value.name], to=HALF)
        for value in model.graph.output
        if value.name in inside
    ]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, constants)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(made, full_check=True)
    return made


def _round(node: onnx.NodeProto, place: int, already_half: bool) -> list[onnx.NodeProto]:
    """Casts to float16 and back after one of a node's outputs, which keeps its name for what comes out of them."""
    target = node.output[place]
    half = f"{target}:half"
    node.output[place] = half if already_half else f"{target}:exact"
    back = helper.make_node("Cast", [half], [target], to=FLOAT)
    return [back] if already_half else [helper.make_node("Cast", [node.output[place]], [half], to=HALF), back]
