"""Links between the nodes of a graph, and replacement of nodes: what every pass needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from etam_edge.runtimes.backends.onnxruntime.onnx_file import OnnxFile


class GraphLinks:
    """Which node writes and which nodes read every tensor of a graph."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._writers: dict[str, Any] = {}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in node.output:
                self._writers[name] = node
            for name in node.input:
                self._readers[name].append(node)

    def writer(self, tensor: str, *op_types: str) -> Any | None:
        """The node that writes a tensor, if it has one of these types."""
        node = self._writers.get(tensor)
        return node if node is not None and node.op_type in op_types else None

    def only_reader(self, tensor: str, op_type: str | None = None) -> Any | None:
        """The only node that reads a tensor, if there is exactly one and it has this type."""
        readers = self._readers[tensor]
        return readers[0] if len(readers) == 1 and op_type in (None, readers[0].op_type) else None


class Replacements:
    """Nodes to be put in the place of others, collected while a pass walks over the graph."""

    def __init__(self) -> None:
        # Messages are not hashable. Their identity is stable, since `OnnxFile.nodes` holds them.
        self._by_node: dict[int, list[Any]] = {}

    def replace(self, node: Any, new: list[Any]) -> None:
        """Put `new` in the place of a node; an empty list removes it."""
        self._by_node[id(node)] = new

    def apply(self, file: OnnxFile) -> None:
        """Replace the nodes, and remove those whose results nothing reads any more."""
        nodes = [new for node in file.nodes for new in self._by_node.get(id(node), [node])]
        read = set(file.outputs)
        kept = []
        for node in reversed(nodes):
            if read & set(node.output):
                read |= set(node.input)
                kept.append(node)
        file.nodes = kept[::-1]
