"""int8 with float16 scales, and TF32: what is written, what it computes, and what TensorRT compiles it to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge.bundle import Bundle
from etam_edge.errors import ExportError, InputError
from etam_edge.recipe import FP16, FP32, INT8, MAX_FLOAT16, TF32, Recipe
from etam_edge.spec import Pooling
from etam_edge.workflows.quantize import with_scales_for
from etam_edge_testing.made_up_ranges import made_up_ranges

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from etam_edge.bundle import GraphSignature, TensorSpec  # noqa: E402
from etam_edge.calibration.qdq import QdqQuantizer  # noqa: E402
from etam_edge.exporters.passes.base import run_passes  # noqa: E402
from etam_edge.exporters.passes.convert_to_float16 import HALF_SCALES_OPSET, ConvertToFloat16  # noqa: E402
from etam_edge.exporters.passes.half_scales import HalfScales  # noqa: E402
from etam_edge.exporters.passes.raise_opset import RaiseOpset, opset_of  # noqa: E402
from etam_edge.exporters.passes.round_to_float16 import round_to_float16  # noqa: E402
from etam_edge.exporters.passes.round_to_tf32 import RoundToTf32  # noqa: E402
from etam_edge.exporters.precision import derive_bundle  # noqa: E402

HALF_INT8 = with_scales_for("10", Recipe.default(INT8))
WIDTH, CHANNELS = 192, 24
SIGNATURE = GraphSignature((TensorSpec("x", "float32", (8, WIDTH)),), (TensorSpec("y", "float32", (8, CHANNELS)),))


def linear(weight: np.ndarray) -> onnx.ModelProto:
    """x W + b in opset 17, float32."""
    bias = np.linspace(-1, 1, CHANNELS, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="/linear/MatMul"),
        helper.make_node("Add", ["product", "b"], ["y"], name="/linear/Add"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, CHANNELS])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(weight: np.ndarray, largest: float) -> onnx.ModelProto:
    ranges = {"linear": {"x": (-largest, largest)}}
    return QdqQuantizer(ranges)("linear", linear(weight), ["/linear/MatMul"])


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    passes = (
        HalfScales(["/linear/MatMul"]),
        RaiseOpset(HALF_SCALES_OPSET),
        ConvertToFloat16(lambda node: node.startswith("/linear/"), SIGNATURE),
    )
    return run_passes(model, passes).model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.fixture
def weight() -> np.ndarray:
    """Channels whose ranges differ a thousandfold."""
    rng = np.random.default_rng(1)
    return (rng.normal(size=(WIDTH, CHANNELS)) * np.logspace(-3, 0, CHANNELS)).astype(np.float32)


def test_channels_keep_their_own_integers(weight: np.ndarray) -> None:
    """One scale and a row of ratios compute what a scale for each channel computes, to rounding in float16."""
    model = quantized(weight, 127 / 32)  # a scale of 1/32, which is exact in float16
    half = in_half(model)
    assert opset_of(half) == HALF_SCALES_OPSET
    by_type = {node.op_type: node for node in half.graph.node if node.op_type != "Cast"}
    assert [node.op_type for node in half.graph.node].count("DequantizeLinear") == 2
    assert by_type["Mul"].name == "/linear/MatMul:ratio"
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    integers = [values for values in constants.values() if values.dtype == np.int8 and values.ndim == 2]
    before = [numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == TensorProto.INT8]
    assert np.array_equal(integers[0], next(values for values in before if values.ndim == 2))
    scales = [constants[n.input[1]] for n in half.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(scale.dtype == np.float16 and scale.shape == () for scale in scales)
    x = np.random.default_rng(2).uniform(-4, 4, size=(8, WIDTH)).astype(np.float16).astype(np.float32)
    expected, found = run(model, x), run(round_to_float16(half).model, x)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(run(half, x), expected, rtol=5e-3, atol=5e-2)


def test_a_sum_that_does_not_fit_overflows_in_the_emulation() -> None:
    """The factor of one scale is applied before the rounding: the result counts, and not the sum of integers."""
    weight = np.ones((WIDTH, CHANNELS), dtype=np.float32)
    x = np.full((8, WIDTH), 100.0, dtype=np.float32)
    integers = WIDTH * 127 * 127
    assert integers > MAX_FLOAT16
    small = run(round_to_float16(in_half(quantized(weight, 100.0))).model, x)
    np.testing.assert_allclose(small[:, 0], 100.0 * WIDTH - 1, rtol=1e-2)
    large = run(round_to_float16(in_half(quantized(400 * weight, 100.0))).model, x)
    assert np.isinf(large).all()


def test_scales_are_rounded_up_and_never_zero() -> None:
    half = in_half(quantized(np.full((WIDTH, CHANNELS), 1e-12, dtype=np.float32), 1e-10))
    scales = [
        numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in half.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and not tensor.dims
    ]
    assert scales
    assert all(scale > 0 for scale in scales)
    model = quantized(np.ones((WIDTH, CHANNELS), dtype=np.float32), 0.1)
    wanted = 0.1 / 127
    scale = min(
        float(numpy_helper.to_array(t)) for t in in_half(model).graph.initializer if t.data_type == 10 and not t.dims
    )
    assert wanted <= scale <= wanted * (1 + 2**-10)


def test_other_nodes_are_left_alone(weight: np.ndarray) -> None:
    model = linear(weight)
    result = HalfScales(["/linear/MatMul"])(model)
    assert not result.changed
    assert result.model is model
    assert not RaiseOpset(17)(model).changed
    older = ConvertToFloat16(lambda node: node.startswith("/linear/"), SIGNATURE)(quantized(weight, 4.0)).model
    scales = {node.input[1] for node in older.graph.node if node.op_type == "QuantizeLinear"}
    types = {tensor.name: tensor.data_type for tensor in older.graph.initializer}
    assert {types[name] for name in scales} == {TensorProto.FLOAT}, "opset 17 has float32 scales only"


# --- recipe and bundle ---


def test_the_oldest_tensorrt_decides() -> None:
    assert with_scales_for("8.6", Recipe.default(INT8)).scales == FP32
    assert with_scales_for("8.6.1", Recipe.default(INT8)).scales == FP32
    for version in ("10", "10.3", "11.4"):
        assert with_scales_for(version, Recipe.default(INT8)).scales == FP16
    assert with_scales_for("10", Recipe.default(FP16)).scales == FP32, "nothing is int8"
    assert with_scales_for("10", Recipe.default(INT8, FP32)).scales == FP32, "for a CPU"
    assert Recipe.from_dict(HALF_INT8.to_dict()) == HALF_INT8
    assert "scales" not in Recipe.default(INT8).to_dict()
    for version in ("8.5", "latest"):
        with pytest.raises(InputError, match=rf"`oldest_tensorrt={version}` is not a version of TensorRT from 8.6 on"):
            with_scales_for(version, Recipe.default(INT8))
    with pytest.raises(InputError, match="fp16 scales need fp16 around them"):
        Recipe({}, float_precision=FP32, scales=FP16)


def test_tf32_is_for_the_decoder_beside_fp16() -> None:
    recipe = Recipe.default(FP16).with_regions({"mask_decoder": TF32})
    assert recipe.tf32
    assert recipe.float_type("mask_decoder") == FP32
    assert recipe.precision == FP16
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(InputError, match="region neck cannot be tf32; only mask_decoder can"):
        Recipe.default(FP16).with_regions({"neck": TF32})
    with pytest.raises(InputError, match="mask_decoder cannot be tf32 beside patch_embedding in fp32"):
        Recipe.default(FP32).with_regions({"mask_decoder": TF32})


@pytest.mark.parametrize("bits", [11, 10])
def test_factors_are_rounded_to_tf32(bits: int) -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(WIDTH, CHANNELS)).astype(np.float32)
    x = (rng.normal(size=(8, WIDTH)) * 1e6).astype(np.float32)
    rounded = RoundToTf32(["/linear/MatMul"], bits)(linear(weight)).model

    def to_bits(values: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(values.astype(np.float64))
        return np.ldexp(np.rint(mantissa * 2**bits) / 2**bits, exponent)

    expected = to_bits(x) @ to_bits(weight) + np.linspace(-1, 1, CHANNELS)
    np.testing.assert_allclose(run(rounded, x), expected, rtol=1e-4, atol=1.0)
    assert np.abs(run(rounded, x) - run(linear(weight), x)).max() > 100
    assert not RoundToTf32(["/linear/Add"])(linear(weight)).changed


# --- TensorRT ---


@pytest.mark.full
def test_int8_products_write_what_the_scales_say(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    """With fp32 scales every int8 product writes float32; with fp16 scales, float16, and less is moved."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from etam_edge_testing.compiled import summary_of

    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    quantize = QdqQuantizer(made_up_ranges())
    single = derive_bundle(source, tmp_path / "single", Recipe.default(INT8), INT8, {}, quantize)
    half = derive_bundle(source, tmp_path / "half", HALF_INT8, INT8, {}, quantize)
    assert {name: entry.opset for name, entry in half.manifest.graphs.items()} == {
        "encode": 19,
        "prompt": 17,
        "remember": 19,
        "track": 19,
    }
    assert {entry.opset for entry in single.manifest.graphs.values()} == {17}
    for graph in ("encode", "track"):
        before, after = summary_of(single, graph), summary_of(half, graph)
        assert set(before.int8_outputs) == {"Float"}, graph
        assert set(after.int8_outputs) <= {"Half", "Int8"}, graph
        # Products of one input, as of queries, keys and values, are one with fp32 scales, and several with fp16 scales.
        assert sum(after.int8_outputs.values()) >= sum(before.int8_outputs.values()), graph
        if graph == "encode":
            assert (after.bytes_moved or 0) < (before.bytes_moved or 0)


def test_tensorrt_8_refuses_fp16_scales_by_name(small_bundle: SmallBundleMaker, tmp_path: Path) -> None:
    from etam_edge.exporters.tensorrt.engine_set import check_opsets

    source = Bundle.load(small_bundle(Pooling.SCORE_BIAS))
    half = derive_bundle(source, tmp_path / "half", HALF_INT8, INT8, {}, QdqQuantizer(made_up_ranges()))
    check_opsets(half, "10.3.0")
    check_opsets(source, "8.6.1")
    with pytest.raises(ExportError, match=r"opset 19, which TensorRT 8.6.1 does not read.*--oldest-tensorrt 8.6"):
        check_opsets(half, "8.6.1")
