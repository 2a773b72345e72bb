"""How int8 products are computed on a CPU: the forms, and which of them this CPU computes exactly.

A bundle stores int8 as Q/DQ pairs with zero points of 0. ONNX Runtime's CPU kernels take signed and unsigned 8-bit
integers, and shifting values and zero point by 128 turns one into the other without changing what is computed. But on
x86 without VNNI (AVX2, and AVX-512 of older servers), the kernel for uint8 by int8 adds pairs of products in 16 bits
with saturation (the instruction VPMADDUBSW), so that large sums come out wrong. Which forms are exact is found out by
computing small products on this CPU, never by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Int8Form:
    """One way to compute the product of two symmetric int8 tensors.

    Attributes:
        name: for logs, tables and JSON.
        first, second: NumPy types of the two factors, "uint8" or "int8". An unsigned factor has its zero point at the
            middle of its range.
        first_bits: 8, or 7 where the first factor is rounded to 0..127 around 64, at twice the step.
        integer: whether products are computed on integers at all.
    """

    name: str
    first: str = "uint8"
    second: str = "int8"
    first_bits: int = 8
    integer: bool = True

    @property
    def first_zero(self) -> int:
        return 1 << (self.first_bits - 1) if self.first == "uint8" else 0

    @property
    def second_zero(self) -> int:
        return 128 if self.second == "uint8" else 0


UINT8_INT8 = Int8Form("uint8 x int8")
UINT8_UINT8 = Int8Form("uint8 x uint8", second="uint8")
INT8_INT8 = Int8Form("int8 x int8", first="int8")
UINT7_INT8 = Int8Form("uint7 x int8", first_bits=7)
FLOAT = Int8Form("float", integer=False)
EXACT_FORMS = (UINT8_INT8, UINT8_UINT8, INT8_INT8)
"""Forms that compute the bundle's integers exactly where the CPU's kernel does not saturate, in order of preference."""
FORMS = {form.name: form for form in (*EXACT_FORMS, UINT7_INT8, FLOAT)}
"""All forms by name. UINT7_INT8 cannot saturate, since 2 * 127 * 127 is below 2**15; it rounds more coarsely. FLOAT
dequantizes and multiplies in float32: exact to rounding error, with nothing of int8's speed."""
DEFAULT_FORM = UINT8_INT8

Product = Callable[[Int8Form, np.ndarray, np.ndarray], list[np.ndarray]]
"""Computes a product in a form: the form, and int32 arrays (M, K) and (K, N) of the represented integers (zero points
subtracted). Returns int64 (M, N) of every kernel that a session may use for it."""
Timer = Callable[[Int8Form], float]
"""Seconds that a product of typical size takes in a form."""
FASTER = 1.5
"""An exact form replaces the preferred one where it is this many times as fast. The forms differ by less than a third,
or by five times and more; what lies between may be noise of a busy machine."""


def choose_form(product: Product, timer: Timer) -> Int8Form:
    """The fastest form whose results are exact; failing that UINT7_INT8 where it is exact, or FLOAT."""
    exact = [form for form in EXACT_FORMS if is_exact(form, product)]
    if not exact:
        return UINT7_INT8 if is_exact(UINT7_INT8, product) else FLOAT
    times = [timer(form) for form in exact]
    fastest = int(np.argmin(times))
    return exact[0] if times[0] < FASTER * times[fastest] else exact[fastest]


@lru_cache(maxsize=1)
def form_of_this_cpu() -> Int8Form:
    """`choose_form` with ONNX Runtime's own kernels; about 20 ms, once a process."""
    return choose_form(kernel_product, kernel_seconds)


def is_exact(form: Int8Form, product: Product) -> bool:
    """Whether a form multiplies factors that saturate what can saturate, and random ones, without error."""
    rng = np.random.default_rng(0)
    low, high = (-128, 127) if form.first_bits == 8 else (-64, 63)
    depth, columns = 70, 40
    for rows in (1, 7):  # A single row has kernels of its own.
        shapes = (rows, depth), (depth, columns)
        extremes = rng.choice([low, high], shapes[0]), rng.choice([-127, 127], shapes[1])
        largest = np.full(shapes[0], high), np.full(shapes[1], 127)
        uniform = rng.integers(low, high + 1, shapes[0]), rng.integers(-127, 128, shapes[1])
        for first, second in (largest, extremes, uniform):
            first, second = first.astype(np.int32), second.astype(np.int32)
            expected = first.astype(np.int64) @ second
            if any(not np.array_equal(found, expected) for found in product(form, first, second)):
                return False
    return True


def kernel_product(form: Int8Form, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """The product in ONNX Runtime: with the second factor as an input, and as a constant, which is packed ahead."""
    session = _session(form, second)
    feeds = {
        "first": (first + form.first_zero).astype(form.first),
        "second": (second + form.second_zero).astype(form.second),
    }
    return [np.rint(found).astype(np.int64) for found in session.run(None, feeds)]


def kernel_seconds(form: Int8Form, rows: int = 64, depth: int = 256, columns: int = 256, runs: int = 5) -> float:
    """Least seconds of a few products on one thread."""
    second = np.ones((depth, columns), dtype=np.int32)
    session = _session(form, second)
    feeds = {"first": np.ones((rows, depth), dtype=form.first), "second": np.ones_like(second, dtype=form.second)}
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        session.run(["packed"], feeds)
        times.append(time.perf_counter() - begin)
    return min(times)


def _session(form: Int8Form, second: np.ndarray) -> Any:
    """A session of two MatMulIntegerToFloat with scales of 1."""
    # Imported here: every use of the backends imports this module, and few need the messages.
    import onnxruntime

    from etam_edge.runtimes.backends.onnxruntime.onnx_file import DOMAIN, make_node
    from etam_edge.runtimes.backends.onnxruntime.onnx_messages import ModelProto

    model = ModelProto(ir_version=8)
    model.opset_import.add(domain="", version=17)
    model.opset_import.add(domain=DOMAIN, version=1)
    graph = model.graph
    graph.name = "probe"
    types = {"float32": 1, "uint8": 2, "int8": 3}
    for name, values in {
        "scale": np.array(1, dtype=np.float32),
        "first_zero": np.array(form.first_zero, dtype=form.first),
        "second_zero": np.array(form.second_zero, dtype=form.second),
        "constant": (second + form.second_zero).astype(form.second),
    }.items():
        graph.initializer.add(
            name=name, dims=values.shape, data_type=types[values.dtype.name], raw_data=values.tobytes()
        )
    for name, dtype in {"first": form.first, "second": form.second}.items():
        _declare_matrix(graph.input.add(name=name), types[dtype])
    for second_name, output in (("second", "unpacked"), ("constant", "packed")):
        inputs = ["first", second_name, "scale", "scale", "first_zero", "second_zero"]
        graph.node.append(make_node("MatMulIntegerToFloat", inputs, [output], output, domain=DOMAIN))
        _declare_matrix(graph.output.add(name=output), types["float32"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _declare_matrix(value: Any, element_type: int) -> None:
    """Declare a graph input or output as a matrix of any size."""
    value.type.tensor_type.elem_type = element_type
    for _ in range(2):
        value.type.tensor_type.shape.dim.add()
