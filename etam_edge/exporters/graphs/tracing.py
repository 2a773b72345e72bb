"""From graph modules to ONNX files: traced, constants folded, and proven static."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from etam_edge.bundle import OBJECTS, GraphSignature, TensorSpec
from etam_edge.errors import ExportError

OPSET = 17
"""The highest that TensorRT 8.6 parses, the lowest with LayerNormalization as one node."""
FORBIDDEN_OPERATORS = frozenset(
    {"If", "Loop", "Scan", "NonZero", "Shape", "Size", "ConstantOfShape", "Range", "SequenceConstruct", "Unique"}
)
COMPLEX_TYPES = frozenset({TensorProto.COMPLEX64, TensorProto.COMPLEX128})


def export_graph(module: nn.Module, signature: GraphSignature, path: Path) -> onnx.ModelProto:
    """Trace a module, fold its constants, check that it is static, and write it.

    Raises:
        ExportError: the graph is not static or does not have the signature it should have.
    """
    # Two objects while tracing: a batch of one would let broadcasting hide a missing object axis.
    arguments = tuple(example(tensor, objects=2) for tensor in signature.inputs)
    dynamic = {
        tensor.name: {0: OBJECTS} for tensor in (*signature.inputs, *signature.outputs) if tensor.shape[0] == OBJECTS
    }
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of every size that becomes a constant; here all of them should.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            str(path),
            input_names=[tensor.name for tensor in signature.inputs],
            output_names=[tensor.name for tensor in signature.outputs],
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnxslim.slim(onnx.load(path))
    share_equal_constants(model)
    _declare(model, signature)
    problems = static_problems(model)
    if problems:
        raise ExportError(
            f"graph '{path.stem}' is not static: {'; '.join(problems[:5])}; this is a defect of the exporter"
        )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return model


def example(tensor: TensorSpec, objects: int) -> Tensor:
    """Zeros of a tensor's type and shape, for tracing."""
    return torch.zeros(tensor.sized(objects), dtype=getattr(torch, tensor.dtype))


def share_equal_constants(model: onnx.ModelProto) -> None:
    """Keep one of every set of equal initializers: tracing copies the rotation tables once a layer."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed = {}
    for tensor in list(model.graph.initializer):
        content = hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
        kept = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
        if kept != tensor.name:
            renamed[tensor.name] = kept
            model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _declare(model: onnx.ModelProto, signature: GraphSignature) -> None:
    """Write the signature's shapes onto the graph: tracing names inferred object axes as it likes."""
    for declared, tensors in ((model.graph.input, signature.inputs), (model.graph.output, signature.outputs)):
        names = [value.name for value in declared]
        if names != [tensor.name for tensor in tensors]:
            raise ExportError(f"the traced graph has {names}, expected {[tensor.name for tensor in tensors]}")
        for value, tensor in zip(declared, tensors, strict=True):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            if value.type.tensor_type.elem_type != kind:
                raise ExportError(f"'{value.name}' was traced as another type than {tensor.dtype}")
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(tensor.shape)))


def static_problems(model: onnx.ModelProto) -> list[str]:
    """Why a graph is not static; empty when it is.

    Static means: every dimension a number but the leading one, and no control flow, shape arithmetic, complex type or
    antialiased resize. Shapes are inferred anew for two numbers of objects, so that nothing rests on what the file says
    of itself.
    """
    problems = []
    for node in model.graph.node:
        if node.op_type in FORBIDDEN_OPERATORS or node.domain not in ("", "ai.onnx"):
            problems.append(f"{node.op_type} at '{node.name}'")
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                problems.append(f"a subgraph in {node.op_type} at '{node.name}'")
            if node.op_type == "Resize" and attribute.name == "antialias" and attribute.i:
                problems.append(f"an antialiased Resize at '{node.name}'")
    symbolic = _inferred(model, None)
    for name, dimensions in symbolic.items():
        if not all(isinstance(size, int) for size in dimensions[1:]):
            problems.append(f"'{name}' has shape {dimensions}")
    unknown = {output for node in model.graph.node for output in node.output if output} - set(symbolic)
    problems += [f"the shape of '{name}' cannot be inferred" for name in sorted(unknown)]
    one, three = _inferred(model, 1), _inferred(model, 3)
    for name, dimensions in one.items():
        if dimensions[1:] != three[name][1:]:
            problems.append(f"'{name}' changes its shape beyond the object axis: {dimensions}, {three[name]}")
    types = {
        value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    types |= {tensor.data_type for tensor in model.graph.initializer}
    if types & COMPLEX_TYPES:
        problems.append("a complex type")
    return problems


def _inferred(model: onnx.ModelProto, objects: int | None) -> dict[str, list[int | str]]:
    """Every value's shape; with `objects` the object axis is that number."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    if objects is not None:
        for value in (*bare.graph.input, *bare.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if size.dim_param == OBJECTS:
                    size.dim_value = objects
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    return {
        value.name: [
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in value.type.tensor_type.shape.dim
        ]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
