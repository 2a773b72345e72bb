"""The kernel for uint8 by int8 of x86 CPUs without VNNI, in NumPy.

ONNX Runtime's AVX2 kernel multiplies with VPMADDUBSW, which adds the products of two neighbours along K in 16 bits with
saturation. VPMADDWD then adds pairs of those sums in 32 bits, which cannot overflow.
"""

from __future__ import annotations

import numpy as np

from etam_edge.runtimes.backends.onnxruntime.int8_forms import Int8Form


def saturating_product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The product of uint8 (M, K) and int8 (K, N) as stored, int64 (M, N), zero points not subtracted."""
    rows, depth = first.shape
    # Pairs never reach beyond K: the kernel pads it with zeros.
    padded = depth + depth % 2
    left = np.zeros((rows, padded), dtype=np.int64)
    right = np.zeros((padded, second.shape[1]), dtype=np.int64)
    left[:, :depth], right[:depth] = first, second
    total = np.zeros((rows, second.shape[1]), dtype=np.int64)
    for k in range(0, padded, 2):
        pair = left[:, k, None] * right[k] + left[:, k + 1, None] * right[k + 1]
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return total


def saturating_cpu(form: Int8Form, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """What such a CPU computes in a form, as `int8_forms.kernel_product` does: uint8 by int8 alone saturates."""
    expected = first.astype(np.int64) @ second
    if (form.first, form.second) != ("uint8", "int8"):
        return [expected]
    stored = (first + form.first_zero).astype(np.uint8)
    return [saturating_product(stored, second) - form.first_zero * second.astype(np.int64).sum(0)]
