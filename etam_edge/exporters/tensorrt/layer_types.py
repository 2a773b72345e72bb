"""What TensorRT made of a graph: layers and their types, read from a build's own log."""

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
        name: made of the nodes that were fused into it.
        kind: TensorRT's word: "gemm", "correlation" (a convolution), "runtime_fusion" (attention, gemms with what
            follows), "kgen" (generated pointwise code), "deconv" and others.
        inputs: types that it reads, as TensorRT names them ("Half", "Float", "Int8").
        types: of everything it touches.
    """

    name: str
    kind: str
    inputs: frozenset[str]
    types: frozenset[str]


def layers(log: Iterable[tuple[str, str]]) -> list[Layer]:
    """Layers that a verbose build with detailed profiling printed, in order."""
    found = []
    for _, text in log:
        for line in text.splitlines():
            match = _LAYER.match(line)
            if match:
                inputs = frozenset(_TYPE.findall(match["inputs"]))
                found.append(Layer(match["name"], match["kind"], inputs, frozenset(_TYPE.findall(line))))
    return found


def count(found: Iterable[Layer]) -> Counter[tuple[str, str]]:
    """How many layers of each kind compute in what, as of `computes_in`."""
    return Counter((layer.kind, computes_in(layer)) for layer in found)


def multiplies(layer: Layer) -> bool:
    """Whether it multiplies matrices: a gemm, a convolution, or attention, which may be generated code."""
    return layer.kind in MULTIPLYING or "_mha_" in layer.name


def computes_in(layer: Layer) -> str:
    """The narrowest type that a layer reads."""
    for word, precision in (("Int8", "int8"), ("Half", "fp16"), ("Float", "fp32")):
        if word in layer.inputs:
            return precision
    return "other"
