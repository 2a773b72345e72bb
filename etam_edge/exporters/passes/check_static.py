"""The check that a graph is static: TensorRT needs fixed shapes, and nothing is left to be computed at run time."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from etam_edge.errors import ExportError
from etam_edge.exporters.passes.base import PassResult, copy_of, fix_objects

FORBIDDEN_OPERATORS = frozenset(
    {"If", "Loop", "Scan", "NonZero", "Shape", "Size", "ConstantOfShape", "Range", "SequenceConstruct", "Unique"}
)
COMPLEX_TYPES = frozenset({TensorProto.COMPLEX64, TensorProto.COMPLEX128})
MAX_PROBLEMS = 5
"""Problems that an error lists."""


class CheckStatic:
    """Refuse a graph that is not static. Changes nothing.

    Args:
        graph: name of the graph, for the error.

    Raises:
        ExportError: the graph is not static; the first problems are listed.
    """

    def __init__(self, graph: str) -> None:
        self.graph = graph

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        problems = static_problems(model)
        if problems:
            raise ExportError(
                f"graph '{self.graph}' is not static: {'; '.join(problems[:MAX_PROBLEMS])}; "
                "this is a defect of the exporter"
            )
        return PassResult(model, False)


def static_problems(model: onnx.ModelProto) -> list[str]:
    """Why a graph is not static; empty if it is.

    A graph is static if every dimension except the leading object axis is a number, and if it has no control flow, no
    shape arithmetic, no complex types and no antialiased resize. Shapes are inferred again for one object and for
    three, so the result does not depend on the shapes that the file declares.
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
    symbolic = _inferred_shapes(model, None)
    for name, dimensions in symbolic.items():
        if not all(isinstance(size, int) for size in dimensions[1:]):
            problems.append(f"'{name}' has shape {dimensions}")
    unknown = {output for node in model.graph.node for output in node.output if output} - set(symbolic)
    problems += [f"the shape of '{name}' cannot be inferred" for name in sorted(unknown)]
    one, three = _inferred_shapes(model, 1), _inferred_shapes(model, 3)
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


def _inferred_shapes(model: onnx.ModelProto, objects: int | None) -> dict[str, list[int | str]]:
    """Inferred shape of every tensor by name. `objects`: size of the object axis, or None to keep it symbolic."""
    bare = copy_of(model)
    del bare.graph.value_info[:]
    if objects is not None:
        fix_objects(bare, objects)
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    return {
        value.name: [
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in value.type.tensor_type.shape.dim
        ]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
