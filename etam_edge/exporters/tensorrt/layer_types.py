"""Layers of an engine, their types and what they read and write, from the verbose log of its build."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MULTIPLYING = frozenset({"gemm", "correlation", "runtime_fusion", "deconv"})
NO_KERNEL = frozenset({"shape_call", "signal", "wait"})
"""Kinds of layers that run nothing on the GPU: shapes, and the order of streams."""
TYPE_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?), (?:Constants: (?P<constants>.*?), )?"
    r"Outputs: (?P<outputs>.*?), TacticName: "
)
_TENSOR = re.compile(r"\{ Name: .*?, Dimensions: \[(?P<shape>.*?)\],.*?Datatype: (?P<type>\w+)")
_LAYER_OF_8 = re.compile(r"^Layer\((?P<kind>\w+)\): (?P<name>.*), Tactic: \w+, (?P<inputs>.*) -> (?P<outputs>.*)")
"""The form of TensorRT 8: "Layer(Myelin): {ForeignNode[a...b]}, Tactic: 0x0, x (Half[1,8]) -> y (Half[1,8])"."""
_TENSOR_OF_8 = re.compile(r"\((?P<type>Float|Half|Int8|Int32|Bool)\[(?P<shape>[^\]]*)\]")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+)")


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        type: as TensorRT names it ("Half", "Float", "Int8").
        shape: -1 for a dimension that depends on the number of objects.
    """

    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int | None:
        """Bytes, or None if they depend on the number of objects."""
        return None if -1 in self.shape else math.prod(self.shape) * TYPE_BYTES[self.type]


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: composed of the names of the nodes that were fused to the layer.
        kind: layer type in TensorRT's terms: "gemm", "correlation" (a convolution), "runtime_fusion" (a gemm with the
            operations after it), "kgen" (generated code, fused attention among it), "deconv" and others.
        read: tensors that it reads, but for constants.
        constants: constants that it reads.
        written: tensors that it writes.
    """

    name: str
    kind: str
    read: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    written: tuple[LayerTensor, ...]

    @property
    def inputs(self) -> frozenset[str]:
        """Types of its inputs."""
        return frozenset(tensor.type for tensor in self.read)

    @property
    def outputs(self) -> frozenset[str]:
        """Types of its outputs."""
        return frozenset(tensor.type for tensor in self.written)

    @property
    def types(self) -> frozenset[str]:
        """Types of all its tensors."""
        return frozenset(tensor.type for tensor in (*self.read, *self.constants, *self.written))

    @property
    def is_fused_attention(self) -> bool:
        """Whether the layer is a whole attention, which does not write its scores."""
        return "_mha_" in self.name


@dataclass(frozen=True)
class GraphLayers:
    """What a graph was compiled to.

    Attributes:
        kernels: layers that run on the GPU.
        fused_attentions: attentions that are one kernel.
        int8_outputs: number of int8 products by the type that they write.
        bytes_moved: bytes that all layers read and write, counted as if no cache kept anything; None if tensors of the
            graph have a variable number of objects.
    """

    kernels: int
    fused_attentions: int
    int8_outputs: dict[str, int]
    bytes_moved: int | None


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
                lists = (_tensors(match[part] or "") for part in ("inputs", "constants", "outputs"))
                found.append(Layer(match["name"], match["kind"], *lists))
            elif match := _LAYER_OF_8.match(line):
                read, written = (_tensors_of_8(match[part]) for part in ("inputs", "outputs"))
                found.append(Layer(match["name"], match["kind"], read, (), written))
    return found


def _tensors(text: str) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(match["type"], tuple(int(size) for size in match["shape"].split(",") if size))
        for match in _TENSOR.finditer(text)
    )


def _tensors_of_8(text: str) -> tuple[LayerTensor, ...]:
    """TensorRT 8 writes vectorised dimensions as "3:4"."""
    return tuple(
        LayerTensor(match["type"], tuple(int(size.partition(":")[0]) for size in match["shape"].split(",") if size))
        for match in _TENSOR_OF_8.finditer(text)
    )


def scratch_memory(log: Iterable[tuple[str, str]]) -> int | None:
    """Bytes of intermediate results, as the log of a verbose build states them; None where it does not."""
    found = [int(match[1]) for _, text in log if (match := _ACTIVATIONS.search(text))]
    return max(found, default=None)


def summarize(found: Iterable[Layer]) -> GraphLayers:
    """Count the layers of a graph."""
    running = [layer for layer in found if layer.kind not in NO_KERNEL]
    sizes = [tensor.size for layer in running for tensor in (*layer.read, *layer.constants, *layer.written)]
    known = [size for size in sizes if size is not None]
    return GraphLayers(
        kernels=len(running),
        fused_attentions=sum(layer.is_fused_attention for layer in running),
        int8_outputs=dict(
            Counter(kind for layer in running if multiplies(layer) and "Int8" in layer.inputs for kind in layer.outputs)
        ),
        bytes_moved=sum(known) if len(known) == len(sizes) else None,
    )


def count(found: Iterable[Layer]) -> Counter[tuple[str, str]]:
    """Number of layers by kind and type (`computes_in`)."""
    return Counter((layer.kind, computes_in(layer)) for layer in found)


def multiplies(layer: Layer) -> bool:
    """Whether a layer multiplies matrices: a gemm, a convolution, or a fused attention."""
    return layer.kind in MULTIPLYING or layer.is_fused_attention


def computes_in(layer: Layer) -> str:
    """The narrowest type that a layer reads: "int8", "fp16", "fp32" or "other"."""
    for word, precision in (("Int8", "int8"), ("Half", "fp16"), ("Float", "fp32")):
        if word in layer.inputs:
            return precision
    return "other"
