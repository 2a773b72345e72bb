"""The four graphs as modules to trace: `encode`, `prompt`, `remember` and `track`.

Every dimension except the leading object axis is a number. Inputs and outputs are in the order of
`etam_edge.bundle.graph_signatures`.

Tracing names every node after the modules whose `forward` runs it, and `exporters.regions` assigns regions by those
names. So the graph modules themselves only call modules: every operation belongs to a module that is in the table of
regions.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from etam_edge.exporters.graphs.camera import frame_resize, mask_enlarge
from etam_edge.exporters.graphs.patches import PatchEmbedding
from etam_edge.exporters.graphs.static_memory import EntryWriter, StaticMemoryAttention, UnpooledEntryWriter
from etam_edge.exporters.graphs.static_windows import StaticBlock
from etam_edge.model import image_encoder as model_encoder
from etam_edge.model.efficienttam import EfficientTAM, Segmentation
from etam_edge.spec import (
    EMPTY_BIAS,
    EMPTY_POINT,
    MASK_SOURCE_MASK,
    MASK_SOURCE_NONE,
    GraphSizes,
)


class Neck(nn.Module):
    """The model's neck for the ViT's tokens: (B, s, s, C) to (B, width, s, s)."""

    def __init__(self, neck: model_encoder.Neck) -> None:
        super().__init__()
        self.convs = neck.convs

    def forward(self, x: Tensor) -> Tensor:
        return self.convs[0](x.permute(0, 3, 1, 2))


class EncodeGraph(nn.Module):
    """A frame to image features. Normalisation is part of the patch embedding's weights."""

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__()
        encoder = model.image_encoder
        self.resize = frame_resize(model.spec, sizes)
        self.patch = PatchEmbedding(model)
        self.blocks = nn.ModuleList(
            StaticBlock(cast(model_encoder.Block, block), sizes.padded_windows) for block in encoder.trunk.blocks
        )
        self.neck = Neck(encoder.neck)

    def forward(self, frame: Tensor) -> Tensor:
        """uint8 (1, S, S, 3), or (1, H, W, 3) with a frame size, to (1, width, s, s)."""
        x = self.patch(self.resize(frame))
        for block in self.blocks:
            x = block(x)
        return self.neck(x)


class _Decoder(nn.Module):
    """The mask decoder with its constants computed beforehand."""

    image_position: Tensor

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("image_position", model.sam_prompt_encoder.image_position().detach())

    def outputs(self, segmentation: Segmentation) -> tuple[Tensor, ...]:
        """The graph outputs of a segmentation, in the order of the signature."""
        side = self.model.spec.mask_size
        return (
            segmentation.mask_logits.reshape(-1, side, side),
            segmentation.iou[:, 0],
            segmentation.score[:, 0],
            segmentation.pointer,
            segmentation.choice.to(torch.int32),
        )


class PromptDecoder(_Decoder):
    """Prompt encoder and mask decoder for clicks, a box or a mask."""

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
        """Inputs and outputs are those of `PromptGraph`."""
        model, prompt = self.model, self.model.sam_prompt_encoder
        features = features + without_memory[:, None, None, None] * model.no_mem_embed.reshape(1, -1, 1, 1)

        absent = (labels == EMPTY_POINT).to(features.dtype)
        # The padding point that SAM appends to every prompt that has points. Its place among the points does not matter
        # to attention.
        padding = prompt.padding_tokens(1) + 0.0 * points[:, :1, :1]
        tokens = torch.cat((prompt.embed_points(points, labels), padding), dim=1)
        token_bias = torch.cat((absent, absent.amin(dim=1, keepdim=True)), dim=1) * EMPTY_BIAS

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
        return *self.outputs(model.settle(choice, candidates.score)), decoder.masks(candidates), candidates.ious


class PromptGraph(nn.Module):
    """Clicks, a box or a mask on one frame to a mask.

    `without_memory` is 1 for raw image features, to which the no-memory embedding has to be added. `mask_source` says
    which of `previous_logits` and `mask` is used. Entries of `labels` that are -2 hold no point; where all are, the
    prompt consists of the mask alone, without the padding point of a click.
    """

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.decoder = PromptDecoder(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.decoder(*inputs)


class TrackDecoder(_Decoder):
    """The mask decoder for a tracked frame: an empty prompt, and the best of three candidates."""

    def forward(self, features: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Conditioned features (B, width, s, s) to the segmentation's outputs and mask logits (B, 1, 4s, 4s)."""
        prompt, decoder = self.model.sam_prompt_encoder, self.model.sam_mask_decoder
        # An empty prompt: one padding point in place of a click, and the one that SAM appends.
        candidates = decoder(features, self.image_position, prompt.padding_tokens(2), prompt.no_mask())
        segmentation = self.model.settle(decoder.best(candidates), candidates.score)
        return self.outputs(segmentation), segmentation.mask_logits


class Remember(nn.Module):
    """`EfficientTAM.remember` as a module.

    Args:
        model: the model.
        binarise: whether masks are binarised, as those of prompted frames are, or go through a sigmoid.
    """

    def __init__(self, model: EfficientTAM, binarise: bool) -> None:
        super().__init__()
        self.model = model
        self.binarise = binarise

    def forward(self, features: Tensor, mask_logits: Tensor) -> Tensor:
        """(1, width, s, s) and (B, 4s, 4s) or (B, 1, 4s, 4s) to raw memory (B, memory_width, s, s)."""
        logits = mask_logits if mask_logits.dim() == 4 else mask_logits[:, None]
        return self.model.remember(features, logits, self.binarise)


class RememberGraph(nn.Module):
    """The mask of a prompted frame to a memory entry."""

    def __init__(self, model: EfficientTAM) -> None:
        super().__init__()
        self.remember = Remember(model, binarise=True)
        self.write = EntryWriter(model)
        self.write_unpooled = UnpooledEntryWriter(self.write) if model.spec.pooled else None

    def forward(self, image_features: Tensor, mask_logits: Tensor) -> tuple[Tensor, ...]:
        memory = self.remember(image_features, mask_logits)
        entry = self.write(memory)
        return entry if self.write_unpooled is None else (*entry, *self.write_unpooled(memory))


class TrackGraph(nn.Module):
    """One frame for all objects: memory attention, mask decoder and memory encoder."""

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        super().__init__()
        self.attention = StaticMemoryAttention(model, sizes)
        self.decoder = TrackDecoder(model)
        self.remember = Remember(model, binarise=False)
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
        conditioned = self.attention(
            image_features, bank_keys, bank_values, time_codes, slot_bias, bank_pointers, pointer_bias
        )
        outputs, mask_logits = self.decoder(conditioned)
        entry = self.write(self.remember(image_features, mask_logits))
        masks = () if self.enlarge is None else (self.enlarge(outputs[0]),)
        return (*outputs, *entry, conditioned, *masks)


def graph_modules(model: EfficientTAM, sizes: GraphSizes) -> dict[str, nn.Module]:
    """The four graphs as modules, in the order of `graph_signatures`."""
    return {
        "encode": EncodeGraph(model, sizes),
        "prompt": PromptGraph(model),
        "remember": RememberGraph(model),
        "track": TrackGraph(model, sizes),
    }
