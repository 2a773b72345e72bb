"""Which form int8 products are computed in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from etam_edge.runtimes.backends.onnxruntime import int8_forms
from etam_edge.runtimes.backends.onnxruntime.int8_forms import (
    EXACT_FORMS,
    FASTER,
    FLOAT,
    FORMS,
    INT8_INT8,
    UINT7_INT8,
    UINT8_INT8,
    UINT8_UINT8,
    Int8Form,
    choose_form,
    form_of_this_cpu,
    is_exact,
    kernel_product,
    kernel_seconds,
)
from etam_edge_testing.saturating_kernel import saturating_cpu, saturating_product


def exact_product(form: Int8Form, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    return [first.astype(np.int64) @ second]


def equal_times(form: Int8Form) -> float:
    return 1.0


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    form_of_this_cpu.cache_clear()
    yield
    form_of_this_cpu.cache_clear()


def test_the_emulated_kernel_saturates() -> None:
    """255 * 127 * 2 is 64770, which is cut to 32767; pairs lie along K, and an odd K ends in half a pair."""
    first, second = np.full((1, 3), 255, np.uint8), np.full((3, 1), 127, np.int8)
    assert saturating_product(first, second) == 32767 + 255 * 127
    assert saturating_product(first, -second) == -32768 - 255 * 127
    small = np.full((1, 3), 127, np.uint8)
    assert saturating_product(small, second) == 3 * 127 * 127


def test_a_saturating_kernel_is_found_and_left() -> None:
    assert not is_exact(UINT8_INT8, saturating_cpu)
    assert is_exact(UINT7_INT8, saturating_cpu), "7 bits cannot saturate"
    assert choose_form(saturating_cpu, equal_times) is UINT8_UINT8


def test_a_kernel_that_is_wrong_for_constants_alone_is_found() -> None:
    def product(form: Int8Form, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
        return [*exact_product(form, first, second), *saturating_cpu(form, first, second)]

    assert choose_form(product, equal_times) is UINT8_UINT8


def test_where_nothing_saturates_the_default_is_taken() -> None:
    assert choose_form(exact_product, equal_times) is UINT8_INT8


def test_a_form_that_is_much_faster_is_taken() -> None:
    def times(fastest: Int8Form, by: float) -> int8_forms.Timer:
        return lambda form: 1.0 / by if form is fastest else 1.0

    assert choose_form(exact_product, times(INT8_INT8, 1.2 * FASTER)) is INT8_INT8
    assert choose_form(exact_product, times(INT8_INT8, 0.8 * FASTER)) is UINT8_INT8
    assert choose_form(saturating_cpu, times(UINT8_INT8, 10.0)) is UINT8_UINT8, "speed is no excuse"


def test_where_no_form_is_exact_7_bits_are_taken_or_float() -> None:
    def wrong(*forms: Int8Form) -> int8_forms.Product:
        def product(form: Int8Form, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
            return [exact_product(form, first, second)[0] + (form in forms)]

        return product

    assert choose_form(wrong(*EXACT_FORMS), equal_times) is UINT7_INT8
    assert choose_form(wrong(*EXACT_FORMS, UINT7_INT8), equal_times) is FLOAT


@pytest.mark.parametrize("form", EXACT_FORMS, ids=lambda form: form.name)
def test_the_kernels_of_this_cpu_are_exact_or_saturate_as_emulated(form: Int8Form) -> None:
    rng = np.random.default_rng(8)
    first, second = rng.integers(-128, 128, (5, 70)), rng.integers(-127, 128, (70, 33))
    expected = first @ second
    if not is_exact(form, kernel_product):
        assert (form.first, form.second) == ("uint8", "int8")
        expected = saturating_product((first + 128).astype(np.uint8), second) - 128 * second.sum(0)
    for found in kernel_product(form, first.astype(np.int32), second.astype(np.int32)):
        np.testing.assert_array_equal(found, expected)


def test_the_form_of_this_cpu_is_exact(fresh_probe: None) -> None:
    form = form_of_this_cpu()
    assert form in EXACT_FORMS
    assert is_exact(form, kernel_product)
    assert kernel_seconds(form) < 2 * FASTER * min(map(kernel_seconds, filter_exact()))
    assert form_of_this_cpu() is form, "computed once a process"


def filter_exact() -> list[Int8Form]:
    return [form for form in EXACT_FORMS if is_exact(form, kernel_product)]


def test_names_are_those_of_the_forms() -> None:
    assert {name: form.name for name, form in FORMS.items()} == dict(zip(FORMS, FORMS, strict=True))
