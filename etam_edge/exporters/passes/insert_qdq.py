"""Q/DQ pairs around multiplications, placed by ONNX Runtime's quantizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from etam_edge.exporters.passes.base import PassResult, copy_of
from etam_edge.recipe import MULTIPLICATIONS

OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # The output of an int8 multiplication is float: quantizing it as well would cost accuracy, and time on a CPU.
    "OpTypesToExcludeOutputQuantization": list(MULTIPLICATIONS),
}


class InsertQdq:
    """Insert Q/DQ pairs before both factors of the named nodes.

    Symmetric int8, one scale a tensor for activations and one scale an output channel for weights; biases stay float
    and the opset stays 17. TensorRT's parsers and ONNX Runtime's CPU kernels both take this form as int8. Other readers
    of the factors read the dequantized values as well: see `IsolateInputs`. New nodes are appended: see `sort_nodes`.

    Args:
        nodes: names of Conv, MatMul and Gemm nodes.
        ranges: (smallest, largest) value of every tensor that the nodes read and that is not a constant.
    """

    def __init__(self, nodes: Iterable[str], ranges: Mapping[str, tuple[float, float]]) -> None:
        self.nodes = list(nodes)
        self.ranges = ranges

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        if not self.nodes:
            return PassResult(model, False)
        data = TensorsData(
            CalibrationMethod.MinMax,
            {name: (np.float32(low), np.float32(high)) for name, (low, high) in self.ranges.items()},
        )
        quantizer: Any = QDQQuantizer(
            copy_of(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=data,
            nodes_to_quantize=self.nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=list(MULTIPLICATIONS),
            extra_options=OPTIONS,
        )
        quantizer.quantize_model()
        return PassResult(copy_of(quantizer.model.model), True)
