"""Q/DQ pairs around multiplications, placed by ONNX Runtime's quantizer.

Symmetric int8 for activations (one scale a tensor) and weights (one scale an output channel), biases in float, opset 17
kept: the form that TensorRT's parsers and ONNX Runtime's CPU kernels both take as int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from etam_edge.calibration.ranges import Ranges, import_quantization
from etam_edge.errors import InputError
from etam_edge.recipe import MULTIPLICATIONS

BIAS = ":bias"
"""Ends the name of the Add that stands for a Gemm's bias; what comes before it is the multiplication's name."""
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # An int8 multiplication answers in float: rounding its answer too would cost accuracy, and time on a CPU.
    "OpTypesToExcludeOutputQuantization": list(MULTIPLICATIONS),
}


class QdqQuantizer:
    """Quantizes graphs of a bundle by the ranges of a recording."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges

    def __call__(self, graph: str, model: onnx.ModelProto, nodes: Sequence[str]) -> onnx.ModelProto:
        """The graph with Q/DQ pairs before both factors of the named nodes, and nowhere else.

        Raises:
            InputError: the ranges lack a tensor that one of the nodes reads.
        """
        apart, original = _set_apart(_without_gemm(model, set(nodes)), set(nodes))
        ranges = self._ranges[graph]
        constants = {tensor.name for tensor in apart.graph.initializer}
        read = {
            name
            for node in apart.graph.node
            if node.name in set(nodes)
            for name in node.input[:2]
            if name not in constants
        }
        missing = sorted(original[name] for name in read if original[name] not in ranges)
        if missing:
            raise InputError(f"the recording has no range of {missing[0]} in graph '{graph}'; record it again")
        return _put_back(_quantize(apart, list(nodes), {name: ranges[original[name]] for name in read}))


def _quantize(model: onnx.ModelProto, nodes: list[str], ranges: dict[str, tuple[float, float]]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    calibrate = import_quantization()
    data = calibrate.TensorsData(
        calibrate.CalibrationMethod.MinMax,
        {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
    )
    quantizer: Any = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=data,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(MULTIPLICATIONS),
        extra_options=OPTIONS,
    )
    quantizer.quantize_model()
    # New nodes stand at the end, after those that read them.
    quantizer.model.topological_sort()
    made = onnx.ModelProto()
    made.CopyFrom(quantizer.model.model)
    # The quantizer announces operators of its own domain, which these graphs do not hold.
    kept = [entry for entry in made.opset_import if entry.domain in ("", "ai.onnx")]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    return made


def _without_gemm(model: onnx.ModelProto, nodes: set[str]) -> onnx.ModelProto:
    """The named Gemm nodes as MatMul and Add: a bias in float keeps runtimes from computing a Gemm in int8."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    rewritten: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.op_type != "Gemm" or node.name not in nodes or not _is_linear(node, constants):
            rewritten.append(node)
            continue
        factors = [node.input[0], _transposed(made, constants, node)]
        output = node.output[0]
        if len(node.input) < 3:
            rewritten.append(helper.make_node("MatMul", factors, [output], name=node.name))
            continue
        product = f"{output}:product"
        rewritten.append(helper.make_node("MatMul", factors, [product], name=node.name))
        rewritten.append(helper.make_node("Add", [product, node.input[2]], [output], name=f"{node.name}{BIAS}"))
    _replace_nodes(made, rewritten)
    return made


def _is_linear(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a Gemm is x W + b, with a constant W."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    return plain and node.input[1] in constants


def _transposed(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto], node: onnx.NodeProto) -> str:
    """Name of the Gemm's weight as MatMul wants it, made where it is not there."""
    name = node.input[1]
    if not any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        return name
    made = f"{name}:transposed"
    if made not in constants:
        values = np.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
        constants[made] = numpy_helper.from_array(values, made)
        model.graph.initializer.append(constants[made])
    return made


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    # What still belongs to the graph would be emptied with it.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


APART = "/apart"


def _set_apart(model: onnx.ModelProto, nodes: set[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Give the named nodes inputs of their own.

    The quantizer replaces a tensor for all that read it; a residual sum, or a region that shares a weight, must not be
    fed what was rounded for its neighbour.

    Returns:
        the graph, and the original name of every tensor by its name there.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    original: dict[str, str] = {}
    rewritten: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.name in nodes:
            for place, name in enumerate(node.input[:2]):
                own = f"{name}{APART}"
                if own not in original:
                    original[own] = name
                    if name in constants:
                        copy = made.graph.initializer.add()
                        copy.CopyFrom(constants[name])
                        copy.name = own
                    else:
                        rewritten.append(helper.make_node("Identity", [name], [own], name=own))
                node.input[place] = own
        rewritten.append(node)
    _replace_nodes(made, rewritten)
    return made, original


def _put_back(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take the identities of `_set_apart` out, and constants that nothing reads any more."""
    identities = {node.output[0]: node.input[0] for node in model.graph.node if node.name.endswith(APART)}
    kept = [node for node in model.graph.node if not node.name.endswith(APART)]
    for node in kept:
        node.input[:] = [identities.get(name, name) for name in node.input]
    _replace_nodes(model, kept)
    read = {name for node in model.graph.node for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    return model
