"""The region of the model that a node of a graph belongs to.

Tracing names every node after the modules whose `forward` runs it: the query projection of the first ViT block is
"/blocks.0/attn/query/MatMul" in the graph `encode`. One table assigns regions to modules; the longest entry that a
node's name starts with counts. A node that no entry covers is an error: a new module must be given a region before it
can be exported.
"""

from __future__ import annotations

import onnx

from etam_edge.bundle import Bundle
from etam_edge.errors import ExportError
from etam_edge.spec import ModelSpec

RESIZE = "/resize/"
"""Begins the names of the nodes that resize a camera frame to the model's size. They belong to the patch embedding but
are fp32 in every precision: rounding in fp16 changes pixel values, and with them the masks."""
VIT_PROJECTIONS = ("qkv", "query", "key", "value", "proj")
SELF_PROJECTIONS = ("query", "key", "value", "v_proj", "out", "out_proj")
CROSS_PROJECTIONS = ("query", "pointer_key", "out")


def module_regions(spec: ModelSpec) -> dict[str, str]:
    """The table: region by module, each "GRAPH/MODULE/MODULE...", for a model."""
    table = {
        "encode/resize": "patch_embedding",
        "encode/patch": "patch_embedding",
        "encode/neck": "neck",
        "prompt/decoder": "mask_decoder",
        "remember/remember": "memory_encoder",
        "remember/write": "memory_keys",
        "remember/write_unpooled": "memory_keys",
        "track/attention/frame_tokens": "memory_layers",
        "track/attention/conditioned": "memory_layers",
        "track/attention/bank_bias": "memory_scores",
        "track/attention/bank_values": "memory_values",
        "track/decoder": "mask_decoder",
        "track/enlarge": "mask_decoder",
        "track/remember": "memory_encoder",
        "track/write": "memory_keys",
    }
    for index in range(spec.vit_depth):
        block = f"encode/blocks.{index}"
        region = "vit_global" if index in spec.global_blocks else "vit_windowed"
        table[block] = region
        table[f"{block}/attn"] = "vit_attention"
        table |= {f"{block}/attn/{name}": region for name in VIT_PROJECTIONS}
    for index in range(spec.memory_layers):
        layer = f"track/attention/layers.{index}"
        table[layer] = "memory_layers"
        table[f"{layer}/self_attention"] = "memory_self"
        table |= {f"{layer}/self_attention/{name}": "memory_layers" for name in SELF_PROJECTIONS}
        table[f"{layer}/cross_attention"] = "memory_scores"
        table[f"{layer}/cross_attention/weighted_values"] = "memory_values"
        table |= {f"{layer}/cross_attention/{name}": "memory_layers" for name in CROSS_PROJECTIONS}
    return table


def node_regions(name: str, model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """The region of every node of graph `name`, by node name.

    Raises:
        ExportError: two nodes have one name, a node has no name, or a node belongs to no region.
    """
    names = [node.name for node in model.graph.node]
    if len(set(names)) < len(names) or "" in names:
        raise ExportError(f"graph '{name}' has nodes without unique names; this is a defect of the exporter")
    table = module_regions(spec)
    return {node: _region(name, node, table) for node in names}


def bundle_regions(bundle: Bundle) -> dict[str, dict[str, str]]:
    """The region of every tensor of a bundle, by graph and tensor."""
    graphs = {name: onnx.load(bundle.graph_path(name)) for name in bundle.manifest.graphs}
    return {name: tensor_regions(name, graph, bundle.manifest.model) for name, graph in graphs.items()}


def tensor_regions(name: str, model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """The region of every tensor that a node of graph `name` writes, by tensor name.

    Raises:
        ExportError: as of `node_regions`.
    """
    regions = node_regions(name, model, spec)
    return {output: regions[node.name] for node in model.graph.node for output in node.output if output}


def region_of(graph: str, node: str, spec: ModelSpec) -> str:
    """The region of one node of a graph, by its name.

    Raises:
        ExportError: the node belongs to no region.
    """
    return _region(graph, node, module_regions(spec))


def _region(graph: str, node: str, table: dict[str, str]) -> str:
    # The last part of a name is the operation.
    path = f"{graph}{node}".split("/")[:-1]
    for length in range(len(path), 0, -1):
        region = table.get("/".join(path[:length]))
        if region is not None:
            return region
    raise ExportError(
        f"node '{node}' of graph '{graph}' belongs to no region; export the bundle again with this etam-edge (the "
        "modules of the graphs and their regions are listed in etam_edge/exporters/regions.py)"
    )
