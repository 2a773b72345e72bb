"""int8 products as one operator, in every form."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper

from etam_edge.runtimes.backends.onnxruntime.int8_forms import (
    FLOAT,
    FORMS,
    INT8_INT8,
    UINT7_INT8,
    UINT8_INT8,
    UINT8_UINT8,
    Int8Form,
    is_exact,
    kernel_product,
)
from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, OnnxFile
from etam_edge.runtimes.backends.onnxruntime.passes.fuse_int8_products import fuse_int8_products
from etam_edge_testing.onnx_graphs import WEIGHTS, constants, operators, quantized_product, run_graph
from etam_edge_testing.saturating_kernel import saturating_product

INTEGER_FORMS = [form for form in FORMS.values() if form.integer]
SCALE = 0.03
"""Step of the first factor in `quantized_product`."""
EXACT_TOLERANCE = 2e-6
"""Of the largest result: forms that compute the same integers differ in the rounding of float32 alone."""


def rewritten(data: bytes, form: Int8Form) -> tuple[bytes, int]:
    file = OnnxFile(data)
    count = fuse_int8_products(file, form=form)
    file.add_domain(DOMAIN, 1)
    return file.to_bytes(), count


def small_product(bias: np.ndarray | None = None, activation: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    """One in which no kernel saturates: the numbers are small."""
    first = np.random.default_rng(5).integers(-12, 13, (6, 16)).astype(np.float32) * np.float32(2 * SCALE)
    weights = np.clip(WEIGHTS, -1.2, 1.2)
    if not activation:
        weights[0] = 3.0  # the largest of every column, so that the others quantize to less than 64
        first[:, 0] = 0.0
    return quantized_product(weights, bias, activation=activation, first=first)


@pytest.mark.parametrize("bias", [None, np.arange(8, dtype=np.float32)], ids=["no bias", "bias"])
@pytest.mark.parametrize("activation", [False, True], ids=["weights", "activations"])
@pytest.mark.parametrize("form", INTEGER_FORMS, ids=lambda form: form.name)
def test_an_int8_product_is_one_operator(bias: np.ndarray | None, activation: bool, form: Int8Form) -> None:
    data, feeds = small_product(bias, activation)
    result, count = rewritten(data, form)
    assert count == 1
    found = operators(result)
    assert found["MatMulIntegerToFloat"] == 1
    assert not found["MatMul"] + found["DequantizeLinear"], "nothing of the old pattern is left"
    assert found["Add"] == (activation and bias is not None), "a bias belongs to weights"
    np.testing.assert_allclose(run_graph(result, feeds)[0], run_graph(data, feeds)[0], rtol=1e-5, atol=1e-5)
    if activation:
        kinds = [node.op_type for node in onnx.load_from_string(result).graph.node]
        assert kinds.index("Transpose") > kinds.index("QuantizeLinear"), "bytes are transposed, not floats"


@pytest.mark.parametrize("form", INTEGER_FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("activation", [False, True], ids=["weights", "activations"])
def test_factors_have_the_types_of_the_form(form: Int8Form, activation: bool) -> None:
    data, _ = quantized_product(WEIGHTS, activation=activation)
    model = onnx.load_from_string(rewritten(data, form)[0])
    values = constants(model.SerializeToString())
    [product] = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    first_zero, second_zero = product.input[4:6]
    for zero, dtype, expected in (
        (first_zero, form.first, form.first_zero),
        (second_zero, form.second, form.second_zero),
    ):
        assert (zero == "") is (expected == 0), "a zero point of 0 is the default"
        if zero:
            assert (values[zero].dtype, values[zero]) == (dtype, expected)
    if not activation:
        assert values[product.input[1]].dtype == form.second


def test_a_zero_point_other_than_0_is_left_alone() -> None:
    data, _ = quantized_product(WEIGHTS, zero=3)
    assert rewritten(data, UINT8_UINT8)[1] == 0


def test_float_fuses_nothing() -> None:
    data, _ = quantized_product(WEIGHTS)
    assert rewritten(data, FLOAT)[1] == 0


def test_a_bias_of_another_length_stays_an_addition() -> None:
    data, feeds = quantized_product(WEIGHTS, np.float32([0.5]))
    result, count = rewritten(data, UINT8_UINT8)
    assert (count, operators(result)["Add"]) == (1, 1)
    np.testing.assert_allclose(run_graph(result, feeds)[0], run_graph(data, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [False, True], ids=["weights", "activations"])
def test_a_factor_of_several_products_is_quantized_once(activation: bool) -> None:
    """Queries, keys and values read the same tokens."""
    data, feeds = quantized_product(WEIGHTS, activation=activation)
    model = onnx.load_from_string(data)
    for name in ("second", "third"):
        model.graph.node.append(helper.make_node("MatMul", ["xd", "wd"], [name], name=name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    data = model.SerializeToString()
    result, count = rewritten(data, UINT8_UINT8)
    assert (count, operators(result)["QuantizeLinear"]) == (3, 1 + activation)
    for before, after in zip(run_graph(data, feeds), run_graph(result, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


# --- agreement between the forms ---


def large_product(activation: bool) -> tuple[bytes, dict[str, np.ndarray], np.ndarray]:
    """A product over the whole range and beyond it, and what exact integers give, float64 (1, 6, 24)."""
    rng = np.random.default_rng(6)
    weights = rng.uniform(-1, 1, (192, 24)).astype(np.float32)
    first = (rng.uniform(-1.2, 1.2, (6, 192)) * 127 * SCALE).astype(np.float32)
    data, feeds = quantized_product(weights * (2.5 if activation else 1), activation=activation, first=first)
    values = constants(data)
    left = np.clip(np.rint(first / values["xs"]), -128, 127).astype(np.int64)
    right = (
        np.clip(np.rint(feeds["w"][0].T / values["ws"]), -128, 127) if activation else values["w8"].astype(np.float64)
    )
    return data, feeds, (left @ right * (float(values["xs"]) * values["ws"].astype(np.float64)))[None]


@pytest.mark.parametrize("activation", [False, True], ids=["weights", "activations"])
@pytest.mark.parametrize("form", [UINT8_UINT8, INT8_INT8, FLOAT], ids=lambda form: form.name)
def test_forms_agree_with_exact_integers(form: Int8Form, activation: bool) -> None:
    data, feeds, expected = large_product(activation)
    [found] = run_graph(rewritten(data, form)[0], feeds)
    assert np.abs(found - expected).max() < EXACT_TOLERANCE * np.abs(expected).max()


def test_integer_forms_agree_bit_for_bit() -> None:
    data, feeds, _ = large_product(False)
    np.testing.assert_array_equal(*(run_graph(rewritten(data, form)[0], feeds)[0] for form in (UINT8_UINT8, INT8_INT8)))


def test_uint8_by_int8_is_exact_or_saturates_as_emulated() -> None:
    data, feeds, expected = large_product(False)
    [found] = run_graph(rewritten(data, UINT8_INT8)[0], feeds)
    if not is_exact(UINT8_INT8, kernel_product):
        values = constants(data)
        first = np.clip(np.rint(feeds["x"][0] / values["xs"]) + 128, 0, 255).astype(np.uint8)
        integers = saturating_product(first, values["w8"]) - 128 * values["w8"].astype(np.int64).sum(0)
        emulated = (integers * (float(values["xs"]) * values["ws"].astype(np.float64)))[None]
        assert np.abs(emulated - expected).max() > 0.01 * np.abs(expected).max(), "it saturates"
        expected = emulated
    assert np.abs(found - expected).max() < EXACT_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("activation", [False, True], ids=["weights", "activations"])
def test_seven_bits_are_within_a_step_of_eight(activation: bool) -> None:
    """Rounding to steps of 2 moves a factor by at most one step of 1, and the end of the range lies one step lower."""
    data, feeds, expected = large_product(activation)
    [found] = run_graph(rewritten(data, UINT7_INT8)[0], feeds)
    values = constants(data)
    right = np.clip(np.rint(feeds["w"][0].T / values["ws"]), -128, 127) if activation else values["w8"]
    bound = 1.5 * values["xs"] * (np.abs(right.astype(np.float64)) * values["ws"]).sum(0)
    difference = np.abs(found - expected)
    assert (difference <= bound).all()
    assert 1e-3 < np.sqrt(np.mean(difference**2) / np.mean(expected**2)) < 0.02
