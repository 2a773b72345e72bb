"""Layer precisions for TensorRT 8.6, whose networks are weakly typed.

From TensorRT 10 on a network is strongly typed and takes its types from the graph. 8.6 treats those types as advice
unless every layer is given a precision and an output type, and the builder is told to obey them.
"""

from __future__ import annotations

from typing import Any


def obey_types(trt: Any, network: Any, config: Any) -> None:
    """Give every layer of a parsed network the type that the ONNX graph gives it, and require the builder to obey.

    Types are propagated from the graph's inputs, casts and Q/DQ pairs in layer order. The graphs cast wherever a type
    changes, so a layer computes in the type of its float inputs. Constants are asked last: 8.6 reports every float
    constant as FLOAT, whatever type its weights have (NVIDIA/TensorRT#1993), and PyTorch writes the bias of a linear
    layer as `Add(bias, product)`, with the constant first. A layer that reads constants alone computes in the type of
    their weights.

    A multiplication that reads dequantized tensors gets no precision: TensorRT makes it int8, and would have to keep a
    precision of float32.

    Args:
        trt: the module `tensorrt`, version 8.
        network: `INetworkDefinition` that the parser filled; its layers are changed.
        config: `IBuilderConfig`; gets OBEY_PRECISION_CONSTRAINTS, and FP16 and INT8 where the graph has such types.
    """
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    typed_by_graph = (trt.LayerType.CAST, trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
    types = {network.get_input(i).name: network.get_input(i).dtype for i in range(network.num_inputs)}
    constants: set[str] = set()
    dequantized: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        inputs = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]
        if layer.type == trt.LayerType.CONSTANT:
            types[outputs[0].name] = _constant_type(trt, layer, outputs[0])
            constants.add(outputs[0].name)
            continue
        if layer.type in typed_by_graph:
            types |= {tensor.name: tensor.dtype for tensor in outputs}
            if layer.type == trt.LayerType.DEQUANTIZE:
                dequantized |= {tensor.name for tensor in outputs}
            continue
        read = [tensor.name for tensor in inputs if types.get(tensor.name) in floats]
        # Stable sort: tensors that a layer computed come before constants.
        read.sort(key=lambda name: name in constants)
        precision = types[read[0]] if read else None
        is_constant = bool(inputs) and all(tensor.name in constants for tensor in inputs)
        is_free = any(tensor.name in dequantized for tensor in inputs)
        for place, tensor in enumerate(outputs):
            if is_constant:
                constants.add(tensor.name)
            if precision is None or tensor.dtype not in floats:
                types[tensor.name] = tensor.dtype
                continue
            types[tensor.name] = precision
            if not is_free:
                layer.set_output_type(place, precision)
        if precision is not None and not is_free:
            layer.precision = precision
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if trt.DataType.HALF in types.values():
        config.set_flag(trt.BuilderFlag.FP16)
    if dequantized:
        config.set_flag(trt.BuilderFlag.INT8)


def _constant_type(trt: Any, constant: Any, output: Any) -> Any:
    """The type of a constant's weights; its output tensor reports FLOAT for half-precision weights too."""
    if output.dtype != trt.DataType.FLOAT:
        return output.dtype
    return trt.DataType.HALF if weights_are_half(trt, constant) else trt.DataType.FLOAT


def weights_are_half(trt: Any, constant: Any) -> bool:
    """Whether the weights of a constant layer are half-precision, whatever type its output reports."""
    # `get_layer` answers the base class, and TensorRT's bindings downcast by assignment.
    constant.__class__ = trt.IConstantLayer
    # A NumPy array, or `trt.Weights`, whose type is a `trt.DataType`.
    dtype = constant.weights.dtype
    return bool(dtype == trt.DataType.HALF or str(dtype) == "float16")
