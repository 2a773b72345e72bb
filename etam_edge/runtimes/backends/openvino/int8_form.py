"""How OpenVINO computes the int8 products of a bundle exactly on this CPU: found out by computing one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.backends.openvino.core import shared_core

INTEGER: Mapping[str, str] = {}
"""OpenVINO's own form: integer products."""
FLOAT: Mapping[str, str] = {"LP_TRANSFORMS_MODE": "NO"}
"""Values are rounded to int8 and multiplied in float32, which is exact, and slower than a bundle in fp32."""
_DEPTH, _WIDTH, _HIGHEST = 64, 16, 127


def exact_int8_options(openvino: Any, options: Mapping[str, Any]) -> Mapping[str, str]:
    """Options with which int8 products are exact here: `INTEGER`, or `FLOAT` where integer products saturate.

    x86 CPUs without VNNI multiply int8 with an instruction that adds two products in 16 bits: 127 * 127 twice does not
    fit. OpenVINO uses it as it is (2026.4), so that full-range weights give wrong sums.

    Args:
        openvino: the imported module.
        options: that graphs are compiled with.

    Raises:
        RuntimeUnavailableError: neither form is exact.
    """
    return dict(_found(openvino, tuple(sorted(options.items()))))


@lru_cache(maxsize=8)
def _found(openvino: Any, options: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, str], ...]:
    for form in (INTEGER, FLOAT):
        if _is_exact(openvino, {**dict(options), **form}):
            return tuple(form.items())
    raise RuntimeUnavailableError(
        f"OpenVINO {openvino.__version__} computes wrong int8 products on this CPU; use runtime='onnxruntime', or an "
        "fp32 bundle"
    )


def _is_exact(openvino: Any, options: Mapping[str, Any]) -> bool:
    """Whether the largest int8 factors give the exact sum."""
    from openvino import opset13

    values = opset13.parameter([_WIDTH, _DEPTH], np.float32)
    low, high = np.float32(-128), np.float32(127)
    rounded = opset13.fake_quantize(values, low, high, low, high, 256)
    codes = opset13.constant(np.full((_DEPTH, _WIDTH), _HIGHEST, dtype=np.int8))
    weights = opset13.multiply(opset13.convert(codes, "f32"), opset13.constant(np.float32(1)))
    model = openvino.Model([opset13.matmul(rounded, weights, False, False)], [values], "int8")
    request = shared_core().compile_model(model, "CPU", dict(options)).create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.full((_WIDTH, _DEPTH), _HIGHEST, dtype=np.float32)))
    request.infer()
    return bool(np.all(request.get_output_tensor().data == _DEPTH * _HIGHEST**2))
