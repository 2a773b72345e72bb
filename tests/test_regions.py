"""Regions: one table, the longest entry counts, and nothing is guessed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from conftest import CameraBundleMaker, SmallBundleMaker

from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import ExportError
from etam_edge.recipe import REGIONS
from etam_edge.spec import MODELS, Pooling
from etam_edge_testing.small import CAMERA, SIZES, SMALL, export_small

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper  # noqa: E402

from etam_edge.exporters.regions import module_regions, node_regions, tensor_regions  # noqa: E402

EXPECTED = json.loads((Path(__file__).parent / "data" / "regions.json").read_text())
"""Nodes by form of the small model, graph, region and operator. A change of it changes what recipes mean."""


def graph_of(*names: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], [f"out:{index}"], name=name) for index, name in enumerate(names)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(nodes, "g", [x], []))


def counted(bundle: Bundle) -> dict[str, dict[str, dict[str, int]]]:
    found = {}
    for name in GRAPH_NAMES:
        model = onnx.load(bundle.graph_path(name))
        regions = node_regions(name, model, bundle.manifest.model)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for node in model.graph.node:
            counts[regions[node.name]][node.op_type] += 1
        found[name] = {region: dict(sorted(counter.items())) for region, counter in sorted(counts.items())}
    return found


@pytest.mark.parametrize("pooling", list(Pooling))
def test_every_node_has_the_region_that_recipes_mean(pooling: Pooling, small_bundle: SmallBundleMaker) -> None:
    assert counted(Bundle.load(small_bundle(pooling))) == EXPECTED[f"small-{pooling.value}"]


def test_nodes_of_camera_frames_too(camera_bundle: CameraBundleMaker) -> None:
    assert counted(Bundle.load(camera_bundle(CAMERA))) == EXPECTED["small-camera"]


@pytest.mark.full
def test_nodes_of_padded_windows_too(tmp_path: Path) -> None:
    path = export_small(Pooling.NONE, tmp_path / "bundle", dataclasses.replace(SIZES, padded_windows=True))
    assert counted(Bundle.load(path)) == EXPECTED["small-padded"]


def test_the_longest_entry_counts() -> None:
    names = [
        "/blocks.0/norm1/LayerNormalization",
        "/blocks.0/attn/Softmax",
        "/blocks.0/attn/query/MatMul",
        "/blocks.2/attn/query/MatMul",
        "/neck/convs.0/conv_1x1/Conv",
        "/resize/rows/MatMul",
    ]
    regions = node_regions("encode", graph_of(*names), SMALL)
    assert list(regions.values()) == [
        "vit_windowed",
        "vit_attention",
        "vit_windowed",
        "vit_global",
        "neck",
        "patch_embedding",
    ]
    assert tensor_regions("encode", graph_of(*names), SMALL)["out:1"] == "vit_attention"


@pytest.mark.parametrize(
    ("graph", "node"),
    [
        ("encode", "/Add"),
        ("encode", "/blocks.3/Add"),
        ("encode", "/resized/Add"),
        ("prompt", "/neck/Conv"),
        ("track", "/attention/Concat"),
        ("track", "/attention/layers.2/Add"),
        ("remember", "/decoder/Add"),
    ],
)
def test_a_node_of_an_unknown_module_is_refused(graph: str, node: str) -> None:
    with pytest.raises(ExportError, match=f"node '{node}' of graph '{graph}' belongs to no region"):
        node_regions(graph, graph_of(node), SMALL)


@pytest.mark.parametrize("names", [("/neck/Conv", "/neck/Conv"), ("",)])
def test_nodes_without_unique_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ExportError, match="nodes without unique names"):
        node_regions("encode", graph_of(*names), SMALL)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_every_model_has_every_region_and_no_other(name: str) -> None:
    spec = MODELS[name]
    table = module_regions(spec)
    assert set(table.values()) == set(REGIONS)
    assert {module.split("/")[0] for module in table} == set(GRAPH_NAMES)
    assert sum(module.startswith("encode/blocks.") and module.count("/") == 1 for module in table) == spec.vit_depth
