"""Inputs that selected nodes share with no other node."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from etam_edge.exporters.passes.base import PassResult, copy_of, replace_nodes

SUFFIX = ":isolated"
"""Ends the names of the tensors that the pass adds."""


class IsolateInputs:
    """Give both factors of the named nodes tensors of their own: a copy of a constant, an Identity of any other tensor.

    ONNX Runtime's quantizer quantizes a tensor for all its readers. Without this pass a residual sum, or a region in
    fp32 that shares a weight with an int8 region, would read quantized values. `remove_identities` and `remove_unused`
    clean up afterwards.

    Args:
        nodes: names of the nodes. Their first two inputs are isolated; named nodes share the isolated tensors.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self.nodes = frozenset(nodes)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        result = copy_of(model)
        constants = {tensor.name: tensor for tensor in result.graph.initializer}
        added: set[str] = set()
        rewritten: list[onnx.NodeProto] = []
        for node in result.graph.node:
            if node.name in self.nodes:
                for place, name in enumerate(node.input[:2]):
                    isolated = f"{name}{SUFFIX}"
                    if isolated not in added:
                        added.add(isolated)
                        if name in constants:
                            copy = result.graph.initializer.add()
                            copy.CopyFrom(constants[name])
                            copy.name = isolated
                        else:
                            rewritten.append(helper.make_node("Identity", [name], [isolated], name=isolated))
                    node.input[place] = isolated
            rewritten.append(node)
        if not added:
            return PassResult(model, False)
        replace_nodes(result, rewritten)
        return PassResult(result, True)
