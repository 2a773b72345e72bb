"""The four graphs, each a verb: `encode`, `prompt`, `remember`, `track`.

Every dimension is a number but the leading object axis. Arguments and results are in the order of `signature`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from etam_edge.bundle import OBJECTS, GraphSignature, TensorSpec
from etam_edge.exporters.graphs.camera import frame_resize, mask_enlarge
from etam_edge.exporters.graphs.patches import PatchProjection
from etam_edge.exporters.graphs.static_memory import EntryWriter, StaticMemoryAttention, UnpooledEntryWriter
from etam_edge.exporters.graphs.static_windows import StaticBlock
from etam_edge.model.efficienttam import EfficientTAM, Segmentation
from etam_edge.model.image_encoder import Block
from etam_edge.spec import (
    EMPTY_BIAS,
    EMPTY_POINT,
    MASK_SOURCE_MASK,
    MASK_SOURCE_NONE,
    UNPOOLED_SLOTS,
    GraphSizes,
    ModelSpec,
)

Shape = tuple[int | str, ...]


def _tensors(*rows: tuple[str, str, Shape]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*row) for row in rows)


def signatures(spec: ModelSpec, sizes: GraphSizes) -> dict[str, GraphSignature]:
    """Names, types and shapes of what every graph reads and writes."""
    n, c, m, s, low = OBJECTS, spec.width, spec.memory_width, spec.grid, spec.mask_size
    layers, tokens, slots = spec.memory_layers, spec.memory_tokens, sizes.slots(spec)
    pointers, points = sizes.pointer_slots(spec), sizes.max_points
    height, width = sizes.frame_size or (spec.image_size, spec.image_size)
    frame_features = ("image_features", "float32", (1, c, s, s))
    segmentation = [
        ("mask_logits", "float32", (n, low, low)),
        ("iou", "float32", (n,)),
        ("object_score", "float32", (n,)),
        ("object_pointer", "float32", (n, c)),
        ("mask_choice", "int32", (n,)),
    ]
    entry = [("memory_keys", "float32", (n, layers, tokens, c)), ("memory_values", "float32", (n, tokens, m))]
    unpooled = [
        ("unpooled_keys", "float32", (n, UNPOOLED_SLOTS, layers, tokens, c)),
        ("unpooled_values", "float32", (n, UNPOOLED_SLOTS, tokens, m)),
    ]
    masks = [("masks", "uint8", (n, height, width))] if sizes.frame_size else []
    return {
        "encode": GraphSignature(
            inputs=_tensors(("frame", "uint8", (1, height, width, 3))),
            outputs=_tensors(frame_features),
        ),
        "prompt": GraphSignature(
            inputs=_tensors(
                ("features", "float32", (n, c, s, s)),
                ("without_memory", "float32", (n,)),
                ("points", "float32", (n, points, 2)),
                ("labels", "int32", (n, points)),
                ("mask_source", "int32", (n,)),
                ("previous_logits", "float32", (n, low, low)),
                ("mask", "uint8", (n, spec.image_size, spec.image_size)),
                ("multimask", "int32", (n,)),
            ),
            outputs=_tensors(*segmentation),
        ),
        "remember": GraphSignature(
            inputs=_tensors(frame_features, ("mask_logits", "float32", (n, low, low))),
            outputs=_tensors(*entry, *(unpooled if spec.pooled else [])),
        ),
        "track": GraphSignature(
            inputs=_tensors(
                frame_features,
                ("bank_keys", "float32", (n, slots, layers, tokens, c)),
                ("bank_values", "float32", (n, slots, tokens, m)),
                ("time_codes", "int32", (n, slots)),
                ("slot_bias", "float32", (n, slots)),
                ("bank_pointers", "float32", (n, pointers, c)),
                ("pointer_bias", "float32", (n, pointers)),
            ),
            outputs=_tensors(*segmentation, *entry, ("conditioned_features", "float32", (n, c, s, s)), *masks),
        ),
    }


class EncodeGraph(nn.Module):
    """Frame to image features; normalisation lives in the patch embedding's weights."""

    position: Tensor

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__()
        trunk = model.image_encoder.trunk
        self.resize = frame_resize(model.spec, sizes)
        self.patch = PatchProjection(model)
        self.register_buffer("position", trunk.position().detach())
        self.blocks = nn.ModuleList(StaticBlock(cast(Block, block), sizes.padded_windows) for block in trunk.blocks)
        self.neck = model.image_encoder.neck

    def forward(self, frame: Tensor) -> Tensor:
        # Cast first: TensorRT reads uint8 in a cast and nowhere else.
        x = self.patch(self.resize(frame).to(torch.float32)) + self.position
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class _Decoder(nn.Module):
    """The mask decoder with its constants computed beforehand."""

    image_position: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("image_position", model.sam_prompt_encoder.image_position().detach())

    def outputs(self, said: Segmentation) -> tuple[Tensor, ...]:
        side = self.model.spec.mask_size
        return (
            said.mask_logits.reshape(-1, side, side),
            said.iou[:, 0],
            said.score[:, 0],
            said.pointer,
            said.choice.to(torch.int32),
        )


class PromptGraph(_Decoder):
    """Clicks, a box or a mask on one frame to a mask.

    `without_memory` is 1 where the features are raw and the no-memory embedding has to be added; `mask_source` says
    which of `previous_logits` and `mask` counts; slots of `labels` that hold no point are -2.
    """

    def forward(
        self,
        features: Tensor,
        without_memory: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_source: Tensor,
        previous_logits: Tensor,
        mask: Tensor,
        multimask: Tensor,
    ) -> tuple[Tensor, ...]:
        model, prompt = self.model, self.model.sam_prompt_encoder
        features = features + without_memory[:, None, None, None] * model.no_mem_embed.reshape(1, -1, 1, 1)

        absent = (labels == EMPTY_POINT).to(features.dtype)
        # The padding point that SAM appends to every prompt: any slot will do, attention knows no order.
        padding = prompt.padding_tokens(1) + 0.0 * points[:, :1, :1]
        tokens = torch.cat((prompt.embed_points(points, labels), padding), dim=1)
        token_bias = torch.cat((absent * EMPTY_BIAS, 0.0 * absent[:, :1]), dim=1)

        source = mask_source[:, None, None, None]
        given = model.mask_downsample(mask.to(features.dtype)[:, None])
        dense = prompt.embed_mask(torch.where(source == MASK_SOURCE_MASK, given, previous_logits[:, None]))
        dense = torch.where(source == MASK_SOURCE_NONE, prompt.no_mask(), dense)

        decoder = model.sam_mask_decoder
        candidates = decoder(features, self.image_position, tokens, dense, token_bias)
        best, single = decoder.best(candidates), decoder.single(candidates)
        many = multimask > 0
        choice = type(best)(
            mask_logits=torch.where(many[:, None, None, None], best.mask_logits, single.mask_logits),
            iou=torch.where(many[:, None], best.iou, single.iou),
            token=torch.where(many[:, None], best.token, single.token),
            candidate=torch.where(many, best.candidate, single.candidate),
        )
        return self.outputs(model.settle(choice, candidates.score))


class _Remember(nn.Module):
    """`EfficientTAM.remember` as a module: nodes are named after modules, and regions told by those names."""

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, mask_logits: Tensor, binarise: bool) -> Tensor:
        return self.model.remember(features, mask_logits, binarise)


class RememberGraph(nn.Module):
    """A prompted frame's mask to a memory entry; the mask counts as binary."""

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.remember = _Remember(model)
        self.write = EntryWriter(model)
        self.write_unpooled = UnpooledEntryWriter(self.write) if model.spec.pooled else None

    def forward(self, image_features: Tensor, mask_logits: Tensor) -> tuple[Tensor, ...]:
        memory = self.remember(image_features, mask_logits[:, None], True)
        entry = self.write(memory)
        return entry if self.write_unpooled is None else (*entry, *self.write_unpooled(memory))


class TrackGraph(_Decoder):
    """One frame for all objects: memory attention, decoder and memory encoder."""

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__(model)
        self.attention = StaticMemoryAttention(model, sizes)
        self.remember = _Remember(model)
        self.write = EntryWriter(model)
        self.enlarge = mask_enlarge(model.spec, sizes)

    def forward(
        self,
        image_features: Tensor,
        bank_keys: Tensor,
        bank_values: Tensor,
        time_codes: Tensor,
        slot_bias: Tensor,
        bank_pointers: Tensor,
        pointer_bias: Tensor,
    ) -> tuple[Tensor, ...]:
        model, prompt, decoder = self.model, self.model.sam_prompt_encoder, self.model.sam_mask_decoder
        conditioned = self.attention(
            image_features, bank_keys, bank_values, time_codes, slot_bias, bank_pointers, pointer_bias
        )
        # An empty prompt: one point that is none, and the padding point.
        candidates = decoder(conditioned, self.image_position, prompt.padding_tokens(2), prompt.no_mask())
        said = model.settle(decoder.best(candidates), candidates.score)
        entry = self.write(self.remember(image_features, said.mask_logits, False))
        outputs = self.outputs(said)
        masks = () if self.enlarge is None else (self.enlarge(outputs[0]),)
        return (*outputs, *entry, conditioned, *masks)


def graph_modules(model: EfficientTAM, sizes: GraphSizes) -> dict[str, nn.Module]:
    """The four graphs as modules, in the order of `signatures`."""
    return {
        "encode": EncodeGraph(model, sizes),
        "prompt": PromptGraph(model),
        "remember": RememberGraph(model),
        "track": TrackGraph(model, sizes),
    }
