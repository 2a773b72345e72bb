"""Which region of the model a node of a graph belongs to.

Tracing names every node after the module it comes from, so a region is a pattern of names; only the two products of an
attention are told apart by what they read.
"""

from __future__ import annotations

import re

import onnx

from etam_edge.errors import ExportError
from etam_edge.spec import ModelSpec

LINEAR = re.compile(r"/(qkv|proj|query|key|value|q_proj|k_proj|v_proj|out_proj|out|pointer_key)/")
"""Projections of an attention."""
RESIZE = "/resize/"
"""Begins the names of the nodes that bring a camera frame to the model's size. They belong to the patch embedding, but
are fp32 whatever it is: a pixel that is rounded otherwise is another pixel, and masks show it."""


def node_regions(name: str, model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """The region of every node of graph `name`, by the node's name.

    Raises:
        ExportError: two nodes have one name, or a node has none.
    """
    names = [node.name for node in model.graph.node]
    if len(set(names)) < len(names) or "" in names:
        raise ExportError(f"graph '{name}' has nodes without names of their own; this is a defect of the exporter")
    softmax = {output for node in model.graph.node if node.op_type == "Softmax" for output in node.output}
    return {node.name: _region(name, node.name, bool(softmax & set(node.input)), spec) for node in model.graph.node}


def tensor_regions(name: str, model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """The region of every tensor that a node of graph `name` writes, by the tensor's name."""
    regions = node_regions(name, model, spec)
    return {output: regions[node.name] for node in model.graph.node for output in node.output if output}


def _region(graph: str, node: str, reads_softmax: bool, spec: ModelSpec) -> str:
    if graph == "encode":
        return _encoder_region(node, spec)
    if node.startswith("/write"):
        return "memory_keys"
    if node.startswith("/remember/") or graph == "remember":
        return "memory_encoder"
    if node.startswith("/attention/"):
        return _memory_region(node, reads_softmax)
    return "mask_decoder"


def _encoder_region(node: str, spec: ModelSpec) -> str:
    block = re.match(r"/blocks\.(\d+)/", node)
    if block:
        if "/attn/" in node and not LINEAR.search(node):
            return "vit_attention"
        return "vit_global" if int(block[1]) in spec.global_blocks else "vit_windowed"
    # After the blocks comes one transpose to the neck's layout, the only one that no module holds.
    return "neck" if re.match(r"/neck/|/Transpose$", node) else "patch_embedding"


def _memory_region(node: str, reads_softmax: bool) -> str:
    if LINEAR.search(node):
        return "memory_layers"
    if "/self_attention/" in node:
        return "memory_self"
    if "/cross_attention/" in node:
        return "memory_values" if reads_softmax else "memory_scores"
    if re.match(r"/attention/(layers\.\d+/|norm/|Add_2|Transpose|Reshape_[45])", node):
        return "memory_layers"
    # What is read from the bank: values and pointers as they are, the rest on its way to the scores.
    return "memory_values" if re.match(r"/attention/(Concat|Reshape|Reshape_1)$", node) else "memory_scores"
