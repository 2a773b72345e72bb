"""A peer-style static export: the plain model in two graphs, everything computed again on every frame.

Shapes are fixed and one object is tracked. `encode` pads windows with zeros and projects the padding, too; `track`
takes raw memory and projects, rotates and pools the keys, and projects the values, of all memory frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from etam_edge.bundle import GraphSignature, TensorSpec
from etam_edge.exporters.graphs.tracing import export_graph
from etam_edge.model import EfficientTAM
from etam_edge.spec import ModelSpec

ENCODE, TRACK = "encode", "track"


def plain_signatures(spec: ModelSpec) -> dict[str, GraphSignature]:
    """Names, types and shapes; the memory is full: 7 frames, 16 pointers of 4 tokens each in the released models."""
    c, m, s, low = spec.width, spec.memory_width, spec.grid, spec.mask_size
    memory = (1, spec.memory_frames * spec.tokens, m)

    def tensors(*rows: tuple[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", shape) for name, shape in rows)

    features = ("image_features", (1, c, s, s))
    return {
        ENCODE: GraphSignature(
            inputs=(TensorSpec("frame", "uint8", (1, spec.image_size, spec.image_size, 3)),),
            outputs=tensors(features),
        ),
        TRACK: GraphSignature(
            inputs=tensors(
                features,
                ("memory", memory),
                ("position", memory),
                ("pointers", (1, spec.max_object_pointers * spec.pointer_tokens, m)),
            ),
            outputs=tensors(
                ("mask_logits", (1, 1, low, low)), ("object_pointer", (1, c)), ("new_memory", (1, spec.tokens, m))
            ),
        ),
    }


class PlainEncode(nn.Module):
    """Frame to image features, normalisation included."""

    position: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("position", model.image_encoder.trunk.position().detach())

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 (1, S, S, 3) to (1, C, s, s)."""
        model, trunk = self.model, self.model.image_encoder.trunk
        image = frame.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        x = trunk.patch_embed((image - model.pixel_mean) / model.pixel_std) + self.position
        for block in trunk.blocks:
            x = block(x)
        return model.image_encoder.neck(x.permute(0, 3, 1, 2))


class PlainTrack(nn.Module):
    """Memory attention, decoder and memory encoder of a tracked frame."""

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.model = model
        prompt = model.sam_prompt_encoder
        self.register_buffer("image_position", prompt.image_position().detach())

    image_position: Tensor

    def forward(self, features: Tensor, memory: Tensor, position: Tensor, pointers: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `plain_signatures`, the oldest memory frame first after the conditioning one."""
        model, prompt, decoder = self.model, self.model.sam_prompt_encoder, self.model.sam_mask_decoder
        conditioned = model.condition(features, memory, position, pointers)
        # An empty prompt: one point that is none, and the padding point.
        candidates = decoder(conditioned, self.image_position, prompt.padding_tokens(2), prompt.no_mask())
        segmentation = model.settle(decoder.best(candidates), candidates.score)
        new_memory = model.remember(features, segmentation.mask_logits, binarise=False)
        return segmentation.mask_logits, segmentation.pointer, new_memory.flatten(2).transpose(1, 2)


def export_plain(model: EfficientTAM, folder: Path) -> dict[str, Path]:
    """Trace both graphs, fold their constants as for a bundle, and write them.

    Args:
        model: in evaluation mode, float32, on the CPU.
        folder: it is made.

    Returns:
        the file of each graph.

    Raises:
        ExportError: a graph is not static.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    modules = {ENCODE: PlainEncode(model), TRACK: PlainTrack(model)}
    for name, signature in plain_signatures(model.spec).items():
        paths[name] = folder / f"{name}.onnx"
        export_graph(modules[name], signature, paths[name])
    return paths
