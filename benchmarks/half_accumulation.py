"""What sums in float16 cost: matrix products and attention over many keys, emulated on a CPU.

    python -m benchmarks.half_accumulation

fp16 products of a GPU have float32 sums, or, in some kernels that TensorRT may pick, float16 sums: every step of a
matrix unit adds 16 products exactly, and rounds the running sum to float16. Prints a table in Markdown: the error of a
result relative to its root mean square, with sums of either kind and rounded to float16 at the end, as both are. Needs
NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STEP = 16
"""Products that a matrix unit adds in one step (mma.m16n8k16)."""
GEMMS = (192, 256, 768, 2048)
"""Widths of the sums of the models' linear layers."""
KEYS = (8320, 32896)
"""Keys of memory cross-attention: `efficienttam_ti_512x512` and `_2`, and `efficienttam_ti`."""
QUERIES, WIDTH, VALUE_WIDTH = 64, 256, 64
SHARPNESS = {"even": 0.5, "sharp": 3.0}
"""Standard deviation of the scores."""
Array = np.ndarray[Any, Any]
Product = Callable[[Array, Array], Array]


def half(values: Array) -> Array:
    """Rounded to float16, as float32."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def single_sums(left: Array, right: Array) -> Array:
    """(M, K) by (K, N) with float32 sums, rounded to float16."""
    return half(left @ right)


def half_sums(left: Array, right: Array) -> Array:
    """(M, K) by (K, N) with sums that are rounded to float16 after every step."""
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.float32)
    for start in range(0, left.shape[1], STEP):
        total = half(total + left[:, start : start + STEP] @ right[start : start + STEP])
    return total


def attention(scores: Array, values: Array, product: Product) -> Array:
    """Three kernels: the softmax is float32, its weights are float16."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return product(half(weights / weights.sum(axis=1, keepdims=True)), values)


def fused_attention(scores: Array, values: Array, product: Product) -> Array:
    """One kernel: weights are divided by their sum at the end, and that sum is accumulated as the product is."""
    weights = half(np.exp(scores - scores.max(axis=1, keepdims=True)))
    return product(weights, values) / product(weights, np.ones((values.shape[0], 1), dtype=np.float32))


def error(found: Array, exact: Array) -> float:
    """Root mean square of the difference, relative to that of the exact values; infinite where a sum overflowed."""
    difference = found.astype(np.float64) - exact
    if not np.isfinite(difference).all():
        return float("inf")
    return float(np.sqrt(np.mean(difference**2) / np.mean(exact**2)))


def rows() -> Iterator[tuple[str, float, float]]:
    """What is computed, and its error with float32 and with float16 sums."""
    rng = np.random.default_rng(0)
    for width in GEMMS:
        left, right = half(rng.normal(size=(256, width))), half(rng.normal(size=(width, 256)) / np.sqrt(width))
        exact = left.astype(np.float64) @ right.astype(np.float64)
        yield f"linear layer, sums over {width}", *(error(p(left, right), exact) for p in (single_sums, half_sums))
    for keys in KEYS:
        values = half(rng.normal(size=(keys, VALUE_WIDTH)) + 1.0)
        for word, sharpness in SHARPNESS.items():
            scores = half(rng.normal(size=(QUERIES, keys)) * sharpness)
            weights = np.exp(scores.astype(np.float64))
            exact = (weights / weights.sum(axis=1, keepdims=True)) @ values
            for name, form in (("three kernels", attention), ("fused", fused_attention)):
                errors = (error(form(scores, values, p), exact) for p in (single_sums, half_sums))
                yield f"attention over {keys} keys, {word}, {name}", *errors


def main() -> None:
    print("| | float32 sums | float16 sums |\n| --- | --- | --- |")
    for name, single, halves in rows():
        print(f"| {name} | {single:.5f} | {halves:.5f} |", flush=True)


if __name__ == "__main__":
    main()
