"""How much memory of a GPU the engines of a bundle need, estimated from its manifest.

An engine's scratch memory is dominated by the products of attention, since the compiler does not fuse cross-attention
(docs/tensorrt.md): query by key, and its softmax. Everything else is small beside them and counted in one term.
"""

from __future__ import annotations

from dataclasses import dataclass

from etam_edge.bundle.bundle import Bundle
from etam_edge.bundle.engines import ONE_OBJECT
from etam_edge.bundle.signatures import GRAPH_NAMES
from etam_edge.recipe import FP32, Recipe
from etam_edge.spec import GraphSizes, ModelSpec

BUILD_COPIES = 3
"""Copies of a graph's weights while it is built: as the parser reads them, in the network, and in the engine."""
DRIVER = 256 << 20
"""Bytes that a CUDA context and TensorRT's own kernels take."""


@dataclass(frozen=True)
class GraphMemory:
    """Bytes that the engine of one graph needs.

    Attributes:
        weights: of the graph.
        tensors: inputs and outputs.
        scratch: intermediate results.
    """

    weights: int
    tensors: int
    scratch: int

    @property
    def to_build(self) -> int:
        """Bytes in use while the engine is built: candidates for kernels are run on tensors of the largest shapes."""
        return DRIVER + BUILD_COPIES * self.weights + self.tensors + self.scratch


def graph_memory(bundle: Bundle, objects: int) -> dict[str, GraphMemory]:
    """Estimate for each graph, with engines for up to `objects` objects."""
    found = {}
    for name in GRAPH_NAMES:
        count = 1 if name in ONE_OBJECT else objects
        signature = bundle.manifest.graphs[name].signature
        tensors = sum(tensor.nbytes(count) for tensor in (*signature.inputs, *signature.outputs))
        weights = bundle.graph_path(name).stat().st_size
        manifest = bundle.manifest
        scratch = scratch_memory(manifest.model, manifest.sizes, manifest.recipe, name, count)
        found[name] = GraphMemory(weights, tensors, scratch)
    return found


def scratch_memory(spec: ModelSpec, sizes: GraphSizes, recipe: Recipe, graph: str, objects: int) -> int:
    """Bytes of intermediate results of a graph.

    Measured against the compiler's own sum ("Total Activation Memory" in the log of TensorRT for RTX 1.7.1, compute
    capability 8.0), efficienttam_ti_512x512 in fp16: `track` 51.6 MB against 53.0 MB for one object and 206 MB against
    205 MB for four; `encode`, whose attention is fused, 18.9 MB against 11.3 MB.
    """
    tokens, mask = spec.tokens, spec.image_size**2
    if graph == "encode":
        scores = 2 * spec.vit_heads * tokens * tokens
        layers = tokens * spec.vit_width * (spec.vit_mlp_ratio + 4)
        return _float_size(recipe, "vit_attention") * (scores + layers) + 4 * 3 * mask
    # The mask decoder is fp32: masks enlarged to the frame's size, and the features of four masks at a quarter of it.
    decoder = 4 * (2 * mask + 4 * spec.mask_size**2 * spec.width // 8)
    if graph != "track":
        return objects * decoder
    keys = sizes.slots(spec) * spec.memory_tokens + sizes.pointer_slots(spec) * spec.pointer_tokens
    layers = tokens * (spec.memory_mlp_width + 6 * spec.width)
    return objects * (_float_size(recipe, "memory_scores") * (2 * tokens * keys + layers) + decoder)


def _float_size(recipe: Recipe, region: str) -> int:
    return 4 if recipe.float_type(region) == FP32 else 2
