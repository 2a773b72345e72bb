"""Recipes, float16 in the graphs, Q/DQ pairs, and what must not happen to them. A small model with seeded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.bundle import GRAPH_NAMES, Bundle
from etam_edge.errors import ExportError, InputError
from etam_edge.recipe import FP16, FP32, INT8, MULTIPLICATIONS, PRODUCTS, REGIONS, Recipe, parse_regions
from etam_edge.spec import Pooling
from etam_edge_testing.davis import write_clip
from etam_edge_testing.small import clip_frame
from etam_edge_testing.wrong_rewrite import rewrite_wrongly

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from etam_edge.calibration.fp16_range import check_fp16_range, check_overflow  # noqa: E402
from etam_edge.calibration.qdq import QdqQuantizer  # noqa: E402
from etam_edge.calibration.ranges import Ranges, measure_ranges  # noqa: E402
from etam_edge.calibration.recorder import record  # noqa: E402
from etam_edge.calibration.trial import try_graphs  # noqa: E402
from etam_edge.exporters.passes.convert_to_float16 import FLOAT32_OPERATORS, convert_to_float16  # noqa: E402
from etam_edge.exporters.passes.round_to_float16 import round_to_float16  # noqa: E402
from etam_edge.exporters.precision import convert_graph, derive_bundle, quantized_nodes  # noqa: E402
from etam_edge.exporters.regions import node_regions, tensor_regions  # noqa: E402
from etam_edge.exporters.rounded_bundle import rounded_bundle  # noqa: E402
from etam_edge.media.datasets import find_clips  # noqa: E402

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def source(small_bundle: SmallBundleMaker) -> Bundle:
    return Bundle.load(small_bundle(Pooling.SCORE_BIAS))


@pytest.fixture(scope="module")
def small_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_clip(root, "disc", frames=22)
    return root


@pytest.fixture(scope="module")
def recording(source: Bundle, small_clips: Path, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("precision") / "recording"
    return record(Tracker.load(source.path), find_clips(small_clips), output, samples=12)


@pytest.fixture(scope="module")
def ranges(source: Bundle, recording) -> Ranges:
    return measure_ranges(source, recording)


def graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(bundle.graph_path(name)) for name in GRAPH_NAMES}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, inferred anew."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def follow(path: Path, frames: int = 10) -> np.ndarray:
    """float32 (F, S/4, S/4): mask logits of one object."""
    session = Tracker.load(path, threads=1).start_session()
    logits = []
    for index in range(frames):
        prompts = {1: Prompt(points=[(64, 60)], labels=[1])} if index == 0 else {}
        logits.append(session.track(clip_frame(index), prompts=prompts).mask_logits[0])
    return np.stack(logits)


# --- recipes ---


def test_a_recipe_has_every_region_and_one_precision_in_the_manifest() -> None:
    recipe = Recipe({"vit_global": INT8, "mask_decoder": FP32}, float_precision=FP16)
    assert set(recipe.regions) == set(REGIONS)
    assert recipe.regions["neck"] == FP16
    assert recipe.float_type("vit_global") == FP16
    assert recipe.float_type("mask_decoder") == FP32
    assert recipe.int8_regions == ("vit_global",)
    assert [Recipe.default(word).precision for word in (FP32, FP16, INT8)] == [FP32, FP16, INT8]
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Recipe({"brain": FP16}), "no region is named 'brain'"),
        (lambda: Recipe({"neck": "int4"}), "region neck cannot be 'int4'"),
        (lambda: Recipe({}, float_precision=INT8), "cannot be 'int8'"),
        (lambda: parse_regions(["neck"]), "is not of the form NAME=PRECISION"),
        (lambda: parse_regions(["neck=fp16", "neck=fp32"]), "given twice"),
    ],
)
def test_wrong_recipes_are_refused(make, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


def test_every_region_is_in_the_graphs_and_products_read_no_weight(source: Bundle) -> None:
    spec, seen = source.manifest.model, set()
    for name, model in graphs(source).items():
        regions = node_regions(name, model, spec)
        constants = {tensor.name for tensor in model.graph.initializer}
        seen |= set(regions.values())
        for node in model.graph.node:
            if node.op_type in MULTIPLICATIONS:
                of_weights = node.input[1] in constants
                assert of_weights != (regions[node.name] in PRODUCTS) or regions[node.name] == "mask_decoder", node.name
    assert seen == set(REGIONS)


# --- float16 ---


@pytest.mark.parametrize("pooling", list(Pooling))
def test_fp16_graphs_say_so_and_keep_sums_in_fp32(
    pooling: Pooling, small_bundle: SmallBundleMaker, tmp_path: Path
) -> None:
    original = Bundle.load(small_bundle(pooling))
    derived = derive_bundle(original, tmp_path / "half", Recipe.uniform(FP16), FP16, {})
    for name, model in graphs(derived).items():
        kinds, spec = types(model), original.manifest.model
        regions = node_regions(name, onnx.load(original.graph_path(name)), spec)
        for node in model.graph.node:
            if node.name not in regions:
                assert node.op_type == "Cast"
                continue
            floats = {kinds[output] for output in node.output} & {HALF, FLOAT}
            wanted = FLOAT if node.op_type in FLOAT32_OPERATORS else HALF
            if node.output[0] not in {value.name for value in model.graph.output}:
                assert floats <= {wanted}, (node.op_type, node.name)
        for tensor in model.graph.initializer:
            assert np.isfinite(onnx.numpy_helper.to_array(tensor)).all(), tensor.name
        assert [entry.version for entry in model.opset_import] == [17]
    track = derived.manifest.graphs["track"].signature
    assert {t.name: t.dtype for t in track.inputs}["bank_keys"] == "float16"
    assert {t.name: t.dtype for t in track.outputs}["mask_logits"] == "float32"
    expected, actual = follow(original.path), follow(derived.path)
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()
    assert not np.array_equal(actual, expected)


def test_one_region_alone_can_be_half(source: Bundle, tmp_path: Path) -> None:
    derived = derive_bundle(source, tmp_path / "neck", Recipe({"neck": FP16}, float_precision=FP32), FP16, {})
    for name, model in graphs(derived).items():
        kinds = types(model)
        regions = node_regions(name, onnx.load(source.graph_path(name)), source.manifest.model)
        half = {
            regions[node.name] for node in model.graph.node if node.name in regions and kinds[node.output[0]] == HALF
        }
        assert half <= {"neck"}
    assert np.abs(follow(derived.path, 3) - follow(source.path, 3)).max() > 0


def tiny(nodes: list, constants: dict[str, float], kind: int) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    data = [onnx.numpy_helper.from_array(np.array([v], np.float32), name) for name, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "tiny", [value("x", kind, [4])], [value("y", kind, [4])], data)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def half_tiny(constants: dict[str, float]) -> onnx.ModelProto:
    from etam_edge.bundle import GraphSignature, TensorSpec

    nodes = [
        onnx.helper.make_node("Mul", ["x", "k"], ["a"], name="up"),
        onnx.helper.make_node("Mul", ["a", "k"], ["b"], name="again"),
        onnx.helper.make_node("Div", ["b", "k"], ["y"], name="down"),
    ]
    ends = GraphSignature((TensorSpec("x", "float32", (4,)),), (TensorSpec("y", "float32", (4,)),))
    return convert_to_float16(tiny(nodes, constants, FLOAT), lambda name: True, ends)


def run_tiny(model: onnx.ModelProto) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([1, 2, 3.3333333, 60], np.float32)})[0]


def test_rounding_shows_an_overflow_that_a_cpu_hides() -> None:
    """1000 * 1000 is beyond float16. ONNX Runtime computes it in float32 on a CPU, and the division brings it back."""
    model = half_tiny({"k": 1000.0})
    hidden, shown = run_tiny(model), run_tiny(round_to_float16(model).model)
    assert np.isfinite(hidden).all()
    assert np.isinf(shown).all()


def test_rounding_is_that_of_float16(tmp_path: Path) -> None:
    model = half_tiny({"k": 1.1})
    x, k = np.array([1, 2, 3.3333333, 60], np.float32).astype(np.float16), np.float16(1.1)
    np.testing.assert_array_equal(run_tiny(round_to_float16(model).model), ((x * k) * k / k).astype(np.float32))


def test_a_rounded_bundle_is_close_to_fp32(source: Bundle, tmp_path: Path) -> None:
    derived = derive_bundle(source, tmp_path / "half", Recipe.uniform(FP16), FP16, {})
    honest = rounded_bundle(derived, tmp_path / "rounded")
    expected, free, strict = (follow(path) for path in (source.path, derived.path, honest.path))
    assert 0 < np.abs(strict - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.array_equal(strict, free)


def test_constant_beyond_float16_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match="the constant k reaches 1e\\+05, beyond fp16"):
        half_tiny({"k": 1e5})


def test_only_fp32_bundles_are_converted(source: Bundle, tmp_path: Path) -> None:
    derived = derive_bundle(source, tmp_path / "half", Recipe.uniform(FP16), FP16, {})
    with pytest.raises(InputError, match="is fp16; other precisions are made from an fp32 bundle"):
        derive_bundle(derived, tmp_path / "again", Recipe.uniform(FP16), FP16, {})
    with pytest.raises(InputError, match="needs calibration"):
        derive_bundle(source, tmp_path / "int8", Recipe.default(INT8), INT8, {})
    assert not (tmp_path / "int8").exists()


# --- int8 ---


@pytest.mark.parametrize("float_precision", [FP32, FP16])
def test_int8_is_where_the_recipe_says_and_nowhere_else(
    float_precision: str, source: Bundle, ranges: Ranges, tmp_path: Path
) -> None:
    recipe = Recipe.default(INT8, float_precision)
    derived = derive_bundle(source, tmp_path / "int8", recipe, INT8, {}, QdqQuantizer(ranges))
    assert derived.manifest.calibration.left_float == []
    for name, model in graphs(derived).items():
        original = onnx.load(source.graph_path(name))
        regions = node_regions(name, original, source.manifest.model)
        wanted = {
            node.name
            for node in original.graph.node
            if node.op_type in MULTIPLICATIONS and recipe.regions[regions[node.name]] == INT8
        }
        assert quantized_nodes(model) == wanted
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                assert constants[node.input[1]].dtype == np.float32
                assert not constants[node.input[2]].any(), "not symmetric"
                assert constants[node.input[2]].dtype == np.int8
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                assert constants[node.input[0]].dtype == np.int8
                assert constants[node.input[1]].ndim == 1, "one scale for every output channel"
        assert [entry.domain for entry in model.opset_import] == [""]
    expected, actual = follow(source.path), follow(derived.path)
    assert 0 < np.abs(actual - expected).max() < 0.5 * np.abs(expected).max()


@pytest.mark.parametrize("region", list(REGIONS))
def test_any_region_can_be_int8(region: str, source: Bundle, ranges: Ranges) -> None:
    recipe, count = Recipe({region: INT8}, float_precision=FP32), 0
    for name, model in graphs(source).items():
        signature = source.manifest.graphs[name].signature
        derived, left = convert_graph(name, model, signature, source.manifest.model, recipe, QdqQuantizer(ranges))
        assert left == []
        count += len(quantized_nodes(derived))
    assert count > 0


def test_multiplications_left_float_in_an_int8_region_are_listed(
    source: Bundle, ranges: Ranges, tmp_path: Path
) -> None:
    quantizer = QdqQuantizer(ranges)

    def forgetful(graph: str, model: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
        return quantizer(graph, model, nodes[1:])

    recipe = Recipe({"neck": INT8}, float_precision=FP32)
    derived = derive_bundle(source, tmp_path / "int8", recipe, INT8, {}, forgetful)
    assert derived.manifest.calibration.left_float == ["encode:/neck/convs.0/conv_1x1/Conv"]


def test_a_quantizer_that_changes_other_regions_is_refused(source: Bundle, ranges: Ranges, tmp_path: Path) -> None:
    quantizer = QdqQuantizer(ranges)

    def greedy(graph: str, model: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
        regions = node_regions(graph, model, source.manifest.model)
        return quantizer(graph, model, [*nodes, *(n for n in regions if n.startswith("/patch/linear/"))])

    with pytest.raises(ExportError, match="outside the int8 regions"):
        derive_bundle(source, tmp_path / "int8", Recipe({"neck": INT8}, float_precision=FP32), INT8, {}, greedy)
    assert not (tmp_path / "int8").exists()


def test_neighbours_of_an_int8_multiplication_read_unquantized_tensors(source: Bundle, ranges: Ranges) -> None:
    """The memory encoder's residual sums read what its convolutions read, and share weights with nobody int8."""
    model = onnx.load(source.graph_path("remember"))
    regions = node_regions("remember", model, source.manifest.model)
    nodes = [n.name for n in model.graph.node if n.op_type == "Conv" and regions[n.name] == "memory_encoder"]
    derived = QdqQuantizer(ranges)("remember", model, nodes)
    dequantized = {
        output for node in derived.graph.node if node.op_type == "DequantizeLinear" for output in node.output
    }
    readers = [node.name for node in derived.graph.node if set(node.input) & dequantized]
    assert sorted(readers) == sorted(nodes)


# --- the fp16 range check ---


def test_a_region_that_overflows_is_found(source: Bundle, ranges: Ranges) -> None:
    regions = {name: tensor_regions(name, model, source.manifest.model) for name, model in graphs(source).items()}
    recipe = Recipe.default(FP16)
    found = check_fp16_range(ranges, regions, recipe)
    assert [one.region for one in found] == list(REGIONS)
    check_overflow(found)

    tensor = next(name for name, region in regions["encode"].items() if region == "neck" and name in ranges["encode"])
    high = {**ranges, "encode": {**ranges["encode"], tensor: (-7e4, 1.0)}}
    with pytest.raises(InputError, match=r"neck reaches 7e\+04.*nothing was written; add `regions=\{'neck': 'fp32'\}`"):
        check_overflow(check_fp16_range(high, regions, recipe))
    check_overflow(check_fp16_range(high, regions, recipe.with_regions({"neck": FP32})))


def test_graphs_that_output_nan_are_found(source: Bundle, recording, tmp_path: Path) -> None:
    try_graphs(source, recording)
    broken = source.copy_to(tmp_path / "broken")
    model = onnx.load(broken.graph_path("encode"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "patch.linear.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(list(bias.dims), np.nan, np.float32), bias.name))
    onnx.save(model, broken.graph_path("encode"))
    with pytest.raises(ExportError, match="graph 'encode' outputs NaN or infinity \\(image_features\\)"):
        try_graphs(broken, recording)


@pytest.mark.parametrize("precision", [FP16, INT8])
def test_a_wrong_rewrite_of_a_derived_bundle_is_found(
    precision: str, source: Bundle, recording, ranges: Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = derive_bundle(
        source, tmp_path / "derived", Recipe.default(precision), precision, {}, QdqQuantizer(ranges)
    )
    try_graphs(derived, recording)
    rewrite_wrongly(monkeypatch)
    with pytest.raises(ExportError, match="computes other values in the ONNX Runtime backend"):
        try_graphs(derived, recording)
