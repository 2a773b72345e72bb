"""Layers of an engine and their types, read from the verbose log of its build."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MULTIPLYING = frozenset({"gemm", "correlation", "runtime_fusion", "deconv"})
_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?), (?:Constants|Outputs): ")
_TYPE = re.compile(r"Datatype: (\w+)")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: composed of the names of the nodes that were fused to the layer.
        kind: layer type in TensorRT's terms: "gemm", "correlation" (a convolution), "runtime_fusion" (attention, and
            gemms fused with the operations after them), "kgen" (generated pointwise code), "deconv" and others.
        inputs: types of its inputs, as TensorRT names them ("Half", "Float", "Int8").
        types: types of all its tensors.
    """

    name: str
    kind: str
    inputs: frozenset[str]
    types: frozenset[str]


def layers(log: Iterable[tuple[str, str]]) -> list[Layer]:
    """The layers in the log of a verbose build with detailed profiling, in order.

    Args:
        log: (severity, text) as in `Built.log`.
    """
    found = []
    for _, text in log:
        for line in text.splitlines():
            match = _LAYER.match(line)
            if match:
                inputs = frozenset(_TYPE.findall(match["inputs"]))
                found.append(Layer(match["name"], match["kind"], inputs, frozenset(_TYPE.findall(line))))
    return found


def count(found: Iterable[Layer]) -> Counter[tuple[str, str]]:
    """Number of layers by kind and type (`computes_in`)."""
    return Counter((layer.kind, computes_in(layer)) for layer in found)


def multiplies(layer: Layer) -> bool:
    """Whether a layer multiplies matrices: a gemm, a convolution, or attention, which may be generated code."""
    return layer.kind in MULTIPLYING or "_mha_" in layer.name


def computes_in(layer: Layer) -> str:
    """The narrowest type that a layer reads: "int8", "fp16", "fp32" or "other"."""
    for word, precision in (("Int8", "int8"), ("Half", "fp16"), ("Float", "fp32")):
        if word in layer.inputs:
            return precision
    return "other"
