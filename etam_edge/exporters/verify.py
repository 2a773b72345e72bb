"""Verification of an exported bundle against the PyTorch model, before the bundle is written.

The graphs run in `OnnxRuntimeBackend` on the CPU, which rewrites them when it loads them: a wrong rewrite fails the
export, as a wrong graph does.

Each graph gets the inputs that the PyTorch model had at the same point of a short stream, so that differences do not
accumulate: a click, a box with an earlier mask, and a mask prompt; one memory, and two memories; two objects of
different history in one batch. Whole streams are compared by the tests, against the outputs of the reference.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from etam_edge.bundle import Bundle
from etam_edge.errors import ExportError
from etam_edge.model.efficienttam import EfficientTAM, Segmentation
from etam_edge.model.layers import to_tokens
from etam_edge.model.mask_decoder import Candidates
from etam_edge.model.memory_attention import LOG_4, pool_tokens
from etam_edge.runtimes.backends.arrays import run_on_arrays
from etam_edge.runtimes.backends.onnxruntime.backend import OnnxRuntimeBackend
from etam_edge.spec import (
    EMPTY_BIAS,
    EMPTY_POINT,
    MASK_SOURCE_LOGITS,
    MASK_SOURCE_MASK,
    MASK_SOURCE_NONE,
    UNPOOLED_SLOTS,
    GraphSizes,
    Pooling,
)

TOLERANCE = {
    "image_features": 1e-3,
    "mask_logits": 2e-3,
    "iou": 1e-3,
    "object_score": 1e-3,
    "object_pointer": 1e-3,
    "candidate_logits": 2e-3,
    "candidate_ious": 1e-3,
    "memory_values": 5e-3,
    "conditioned_features": 2e-3,
    "masks": 2e-3,
}
"""Largest difference allowed by output, divided by the output's root mean square where that is above one. For masks,
which are 0 or 1, the difference is the largest absolute logit of a pixel whose mask has the wrong sign."""
FRAME_TOLERANCE = 5e-3
"""Tolerance of image features if the graph resizes the frame. About one pixel in ten thousand is so close to a half
that float32 arithmetic rounds it to another of the 255 levels than the reference's fixed-point arithmetic does."""

Arrays = dict[str, np.ndarray]


class _Graphs:
    """The graphs of a bundle in the backend that runs them on a CPU."""

    def __init__(self, bundle: Bundle) -> None:
        self._entries = bundle.manifest.graphs
        self._backend = OnnxRuntimeBackend(bundle, provider="cpu")

    def run(self, name: str, inputs: Arrays) -> Arrays:
        """Outputs of a graph by name."""
        return run_on_arrays(self._backend, name, self._entries[name].signature, inputs)


class Differences:
    """Largest differences so far, by output, in the units of `TOLERANCE`."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def add(self, name: str, actual: np.ndarray, expected: Tensor) -> None:
        """Compare an output with the model's; shapes may differ in axes of length one."""
        wanted = expected.detach().numpy().reshape(actual.shape).astype(np.float64)
        self._note(name, float(np.max(np.abs(actual - wanted))), wanted)

    def add_mask(self, actual: np.ndarray, logits: Tensor) -> None:
        """Compare a mask of 0 and 1, (H, W), with the signs of the model's logits, (1, 1, H, W)."""
        wanted = logits.detach().numpy()[0, 0].astype(np.float64)
        wrong = actual != (wanted > 0)
        self._note("masks", float(np.max(np.abs(wanted), where=wrong, initial=0.0)), wanted)

    def _note(self, name: str, largest: float, wanted: np.ndarray) -> None:
        difference = largest / max(1.0, float(np.sqrt(np.mean(wanted**2))))
        # NaN would pass every comparison with a tolerance below; infinity fails them all.
        difference = difference if np.isfinite(difference) else float("inf")
        self.largest[name] = max(self.largest.get(name, 0.0), difference)

    def add_segmentation(self, actual: Arrays, row: int, expected: Segmentation) -> None:
        """Compare the segmentation of one object: row `row` of the graph's outputs."""
        self.add("mask_logits", actual["mask_logits"][row], expected.mask_logits)
        self.add("iou", actual["iou"][row], expected.iou)
        self.add("object_score", actual["object_score"][row], expected.score)
        self.add("object_pointer", actual["object_pointer"][row], expected.pointer)

    def add_candidates(self, actual: Arrays, row: int, masks: Tensor, expected: Candidates) -> None:
        """Compare the candidates of one object: row `row` of the graph's outputs. `masks` are their logits."""
        self.add("candidate_logits", actual["candidate_logits"][row], masks)
        self.add("candidate_ious", actual["candidate_ious"][row], expected.ious)


@torch.inference_mode()
def verify_graphs(bundle: Bundle, model: EfficientTAM) -> dict[str, float]:
    """Compare the outputs of an fp32 bundle with those of the model it was exported from.

    Args:
        bundle: the bundle; its manifest may lack the verification.
        model: in evaluation mode, float32, on the CPU.

    Returns:
        the largest difference of each output, in the units of `TOLERANCE`.

    Raises:
        ExportError: a difference is above its tolerance.
    """
    spec, sizes = model.spec, bundle.manifest.sizes
    graphs, differences = _Graphs(bundle), Differences()
    features = []
    for index in range(2):
        frame = synthetic_frame(*(sizes.frame_size or (spec.image_size, spec.image_size)), index)
        features.append(model.encode(torch.from_numpy(_resized(frame, spec.image_size))[None]))
        differences.add("image_features", graphs.run("encode", {"frame": frame[None]})["image_features"], features[-1])

    prompted = _verify_prompts(graphs, model, sizes, features[0], differences)
    memories, remembered = [], []
    for segmentation in prompted:
        logits = segmentation.mask_logits.reshape(1, spec.mask_size, spec.mask_size)
        memories.append(model.remember(features[0], segmentation.mask_logits, binarise=True))
        inputs = {"image_features": features[0].numpy(), "mask_logits": logits.numpy()}
        remembered.append(graphs.run("remember", inputs))
        differences.add("memory_values", remembered[-1]["memory_values"], _values(model, memories[-1]))

    # Object 0 was clicked on frame 0 and has one memory. Object 1 has two: its mask prompt as the conditioning frame,
    # and its box prompt as if it were the previous frame.
    bank = _EmptyBank(model, sizes)
    single = bank.row()
    if spec.pooled:
        single["bank_keys"][:UNPOOLED_SLOTS] = remembered[0]["unpooled_keys"][0]
        single["bank_values"][:UNPOOLED_SLOTS] = remembered[0]["unpooled_values"][0]
        single["slot_bias"][:UNPOOLED_SLOTS] = 0.0
    else:
        bank.put(single, 0, remembered[0], code=spec.memory_frames - 1)
    bank.put_pointer(single, 0, prompted[0].pointer)
    both = bank.row()
    bank.put(both, 1, remembered[2], code=spec.memory_frames - 1)
    bank.put(both, 0, remembered[1], code=0)
    bank.put_pointer(both, 3, prompted[2].pointer)
    bank.put_pointer(both, 1, prompted[1].pointer)
    batch = {name: np.stack([single[name], both[name]]) for name in single}
    actual = graphs.run("track", {**batch, "image_features": features[1].numpy()})

    codes, position = model.maskmem_tpos_enc, model.memory_position
    histories = [
        ([(memories[0], codes[-1])], [prompted[0].pointer]),
        ([(memories[2], codes[-1]), (memories[1], codes[0])], [prompted[2].pointer, prompted[1].pointer]),
    ]
    for row, (entries, pointers) in enumerate(histories):
        conditioned = model.condition(
            features[1],
            torch.cat([to_tokens(memory) for memory, _ in entries], dim=1),
            torch.cat([position + code for _, code in entries], dim=1),
            torch.cat([pointer.reshape(1, -1, spec.memory_width) for pointer in pointers], dim=1),
        )
        empty = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int64)
        segmentation = model.segment(conditioned, *empty, None, multimask=True)
        differences.add("conditioned_features", actual["conditioned_features"][row], conditioned)
        differences.add_segmentation(actual, row, segmentation)
        memory = model.remember(features[1], segmentation.mask_logits, binarise=False)
        differences.add("memory_values", actual["memory_values"][row], _values(model, memory))
        if sizes.frame_size is not None:
            large = F.interpolate(segmentation.mask_logits, sizes.frame_size, mode="bilinear", align_corners=False)
            differences.add_mask(actual["masks"][row], large)

    allowed = TOLERANCE if sizes.frame_size is None else {**TOLERANCE, "image_features": FRAME_TOLERANCE}
    beyond = {name: value for name, value in differences.largest.items() if not value <= allowed[name]}
    if beyond:
        text = ", ".join(f"{name} differs by {value:.2g} (allowed {allowed[name]})" for name, value in beyond.items())
        raise ExportError(
            f"the outputs of the exported graphs differ from those of the PyTorch model: {text}; nothing was written"
        )
    return differences.largest


def synthetic_frame(height: int, width: int, index: int) -> np.ndarray:
    """A textured image, uint8 (height, width, 3), shifted by 2 % of its width per index."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width + 0.02 * index
    rng = np.random.default_rng(0)
    channels = []
    for _ in range(3):
        frequency, phase = rng.uniform(2, 24, size=(6, 2)), rng.uniform(0, 2 * np.pi, size=6)
        waves = [np.sin(2 * np.pi * (f[0] * x + f[1] * y) + p) for f, p in zip(frequency, phase, strict=True)]
        channels.append(127.5 + 40 * np.sum(waves, axis=0))
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def _resized(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame as the reference resizes it, uint8 (size, size, 3)."""
    return np.array(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))


def _verify_prompts(
    graphs: _Graphs, model: EfficientTAM, sizes: GraphSizes, features: Tensor, differences: Differences
) -> list[Segmentation]:
    """Compare four prompts in one batch: a click, a box with an earlier mask (a correction), a mask, and logits alone.

    Returns:
        the model's segmentation of the first three, which are those of tracking.
    """
    spec, size = model.spec, float(model.spec.image_size)
    low = spec.mask_size
    click = torch.tensor([[[0.3 * size, 0.6 * size]]]), torch.ones(1, 1, dtype=torch.int64)
    box = torch.tensor([[[0.2 * size, 0.3 * size], [0.7 * size, 0.8 * size]]]), torch.tensor([[2, 3]])
    no_point = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int64)
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int64)
    mask = np.zeros((1, spec.image_size, spec.image_size), dtype=np.uint8)
    mask[:, spec.image_size // 4 : spec.image_size // 2, spec.image_size // 4 : spec.image_size // 2] = 1

    raw = model.without_memory(features)
    clicked = model.segment(raw, *click, None, multimask=True)
    previous = clicked.mask_logits.clamp(-32, 32)
    boxed = model.segment(features, *box, previous, multimask=False)
    given = model.mask_downsample(torch.from_numpy(mask)[:, None].float())
    masked = model.segment(features, *no_point, given, multimask=False)
    refined = model.segment(raw, *nothing, previous, multimask=False)
    expected = [clicked, boxed, masked, refined]
    proposed = [
        model.propose(raw, *click, None),
        model.propose(features, *box, previous),
        model.propose(features, *no_point, given),
        model.propose(raw, *nothing, previous),
    ]

    points = np.zeros((4, sizes.max_points, 2), dtype=np.float32)
    labels = np.full((4, sizes.max_points), EMPTY_POINT, dtype=np.int32)
    for row, (coordinates, kinds) in enumerate((click, box, no_point, nothing)):
        count = kinds.shape[1]
        points[row, :count], labels[row, :count] = coordinates[0].numpy(), kinds[0].numpy()
    actual = graphs.run(
        "prompt",
        {
            "features": features.numpy().repeat(4, axis=0),
            "without_memory": np.array([1, 0, 0, 1], dtype=np.float32),
            "points": points,
            "labels": labels,
            "mask_source": np.array(
                [MASK_SOURCE_NONE, MASK_SOURCE_LOGITS, MASK_SOURCE_MASK, MASK_SOURCE_LOGITS], dtype=np.int32
            ),
            "previous_logits": previous.numpy().reshape(1, low, low).repeat(4, axis=0),
            "mask": mask.repeat(4, axis=0),
            "multimask": np.array([1, 0, 0, 0], dtype=np.int32),
        },
    )
    for row, (segmentation, candidates) in enumerate(zip(expected, proposed, strict=True)):
        differences.add_segmentation(actual, row, segmentation)
        differences.add_candidates(actual, row, model.sam_mask_decoder.masks(candidates), candidates)
    return expected[:3]


def _values(model: EfficientTAM, memory: Tensor) -> Tensor:
    """The `memory_values` of raw memory, (1, T, M)."""
    tokens = to_tokens(memory)
    return pool_tokens(tokens, model.spec.grid) if model.spec.pooled else tokens


class _EmptyBank:
    """Inputs of `track` for one object, without the object axis."""

    def __init__(self, model: EfficientTAM, sizes: GraphSizes) -> None:
        self.spec = model.spec
        self.slots, self.pointer_slots = sizes.slots(model.spec), sizes.pointer_slots(model.spec)

    def row(self) -> Arrays:
        """An empty bank."""
        spec = self.spec
        shape = (self.slots, spec.memory_layers, spec.memory_tokens, spec.width)
        return {
            "bank_keys": np.zeros(shape, dtype=np.float32),
            "bank_values": np.zeros((self.slots, spec.memory_tokens, spec.memory_width), dtype=np.float32),
            "time_codes": np.full(self.slots, spec.memory_frames, dtype=np.int32),
            "slot_bias": np.full(self.slots, EMPTY_BIAS, dtype=np.float32),
            "bank_pointers": np.zeros((self.pointer_slots, spec.width), dtype=np.float32),
            "pointer_bias": np.full(self.pointer_slots, EMPTY_BIAS, dtype=np.float32),
        }

    def put(self, row: Arrays, slot: int, entry: Arrays, code: int) -> None:
        """Write a memory entry to a slot, with a row of the time code table."""
        row["bank_keys"][slot] = entry["memory_keys"][0]
        row["bank_values"][slot] = entry["memory_values"][0]
        row["time_codes"][slot] = code
        row["slot_bias"][slot] = LOG_4 if self.spec.pooling is Pooling.SCORE_BIAS else 0.0

    def put_pointer(self, row: Arrays, slot: int, pointer: Tensor) -> None:
        """Write an object pointer to a pointer slot."""
        row["bank_pointers"][slot] = pointer[0].numpy()
        row["pointer_bias"][slot] = 0.0
