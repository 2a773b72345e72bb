"""All device memory of one session, and the graph calls that read and write it.

Every buffer is allocated once, when the session starts. There are three kinds:

- The *bank* holds the memory of all objects: for each object, a number of slots of attention keys, values and object
  pointers. `etam_edge.runtimes.memory` decides which slot holds which frame.
- *Scratch* rows, one for each object, receive the outputs of the graphs: masks, scores, and the new memory entry.
- *Frame features* exist twice: `fresh` for the frame being tracked, and `kept` for the last frame that was committed,
  which corrections read.

Graphs only write to scratch rows and fresh features. The session commits a frame with `store`, which copies each
object's entry from its scratch row into the bank, and `keep`, which exchanges fresh and kept features. A frame that
fails before that has changed nothing that a later call reads. What a commit does here can be done again from the
beginning with the same result: nothing that it reads is among what it writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etam_edge.bundle import Bundle, TensorSpec
from etam_edge.errors import NotFiniteError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer
from etam_edge.runtimes.block import Block
from etam_edge.runtimes.memory import Placement, SlotPlan
from etam_edge.runtimes.prompts import PreparedPrompt
from etam_edge.spec import MASK_SOURCE_LOGITS, MASK_SOURCE_MASK, MASK_SOURCE_NONE

BANK = {"memory_keys": "bank_keys", "memory_values": "bank_values", "object_pointer": "bank_pointers"}
"""Bank tensor that each part of a memory entry is stored in, by the name of the graphs' output."""
ENTRY = ("memory_keys", "memory_values")
"""Parts of a memory entry that stay on the device."""
UNPOOLED = {"unpooled_keys": "bank_keys", "unpooled_values": "bank_values"}
"""The same for the unpooled form of an entry, which the `remember` graph writes in addition."""
SHARED = ("frame", "mask_logits", "masks")
"""Tensors that the host writes or reads on every frame, placed in shared memory where the device has it."""
DECODED = ("mask_logits", "iou", "object_score", "object_pointer", "mask_choice")
"""Outputs of the mask decoder, which the host reads: the fields of `DecoderOutput`."""
IMAGES = ("mask", "previous_logits")
"""Inputs of the `prompt` graph that are uploaded only where a prompt has them."""
CANDIDATES = ("candidate_logits", "candidate_ious")
"""Outputs of the `prompt` graph that the segmentation of images reads. Bundles of version 0.1.0 do not have them."""
EXPONENT = np.uint16(0x7C00)
"""Bits of the exponent of a float16 number."""
LOGIT_LIMIT = 32.0
"""Previous mask logits are clamped to +-32 before they prompt the decoder again, as in the reference."""


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """The mask decoder's output for one object on one frame, on the host.

    Attributes:
        mask_logits: float32 (S/4, S/4).
        iou: predicted by the model.
        object_score: logit; the object is visible where it is above 0.
        object_pointer: float32 (D,), D the model's width.
        mask_choice: index of the decoder's mask that was selected.
        mask: bool (H, W), the mask at frame size, where the bundle's `track` graph enlarges masks; else None.
    """

    mask_logits: np.ndarray
    iou: float
    object_score: float
    object_pointer: np.ndarray
    mask_choice: int
    mask: np.ndarray | None = None


@dataclass
class FrameFeatures:
    """Features of one frame that a correction reads again.

    Attributes:
        image_features: output of the `encode` graph, (1, D, s, s) with s = S/16.
        conditioned_features: output of memory attention, one row for each object.
    """

    image_features: Buffer
    conditioned_features: Buffer


class Workspace:
    """The buffers of one session.

    Args:
        backend: that runs the graphs and owns the device.
        bundle: whose signatures give the shapes.
        rows: number of objects to allocate for.

    Attributes:
        bank: memory of all objects, by name; the leading axis is the object's row, the second the slot.
        nbytes: size of all buffers.
    """

    def __init__(self, backend: Backend, bundle: Bundle, rows: int) -> None:
        self.backend = backend
        self.device = backend.device
        self.nbytes = 0
        signatures = {name: entry.signature for name, entry in bundle.manifest.graphs.items()}
        track = {tensor.name: tensor for tensor in signatures["track"].inputs}

        def allocate(tensors: Iterable[TensorSpec], objects: int) -> dict[str, Buffer]:
            buffers = {
                t.name: (self.device.shared if t.name in SHARED else self.device.empty)(t.sized(objects), t.dtype)
                for t in tensors
            }
            self.nbytes += sum(buffer.nbytes for buffer in buffers.values())
            return buffers

        def block(tensors: Iterable[TensorSpec], objects: int) -> Block:
            made = Block(self.device, tensors, objects)
            self.nbytes += made.nbytes
            return made

        self.bank = allocate((track[name] for name in BANK.values()), rows)
        self._plan = block((track[name] for name in SlotPlan._fields), rows)
        self._frame = allocate(signatures["encode"].inputs, 1)
        conditioned = [t for t in signatures["track"].outputs if t.name == "conditioned_features"]
        answers = [t for t in signatures["track"].outputs if t.name in DECODED and t.name not in SHARED]
        # The widest last: of it, only the rows in use are downloaded.
        self._answers = block(sorted(answers, key=lambda tensor: tensor.nbytes(1)), rows)
        others = (t for t in signatures["track"].outputs if t not in (*conditioned, *answers))
        self._scratch = self._answers.tensors | allocate(others, rows)
        self._prompt = block((t for t in signatures["prompt"].inputs if t.name not in (*IMAGES, "features")), 1)
        self._images = allocate((t for t in signatures["prompt"].inputs if t.name in IMAGES), 1)
        # Written by every call, and not read by a session.
        self._candidates = allocate((t for t in signatures["prompt"].outputs if t.name in CANDIDATES), 1)
        self._mask_logits = allocate((t for t in signatures["remember"].inputs if t.name == "mask_logits"), 1)
        self._unpooled = allocate((t for t in signatures["remember"].outputs if t.name in UNPOOLED), 1)
        self._frames = tuple(
            FrameFeatures(**allocate([track["image_features"]], 1), **allocate(conditioned, rows)) for _ in range(2)
        )
        self._kept, self._fresh = self._frames

    # --- graphs ---

    def encode(self, frame: np.ndarray) -> None:
        """Compute the fresh frame's features.

        Args:
            frame: uint8 (1, S, S, 3) RGB, or (1, H, W, 3) of the bundle's frame size.

        Raises:
            EtamError: the graph failed.
        """
        self.device.upload(frame, self._frame["frame"])
        self.backend.run("encode", self._frame, {"image_features": self._fresh.image_features})

    def track(self, plans: Sequence[SlotPlan]) -> list[DecoderOutput]:
        """Track the objects of the first rows on the fresh frame, in batches of as many as the backend takes.

        Args:
            plans: what each object reads from its slots, by row.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        count = len(plans)
        self._plan.upload({name: np.stack([getattr(plan, name) for plan in plans]) for name in SlotPlan._fields})
        step = count if self.backend.max_objects is None else self.backend.max_objects
        for start in range(0, count, step):
            batch = start, min(start + step, count)
            inputs = {name: buffer.rows(*batch) for name, buffer in (self.bank | self._plan.tensors).items()}
            outputs = {name: buffer.rows(*batch) for name, buffer in self._scratch.items()}
            self.backend.run(
                "track",
                {**inputs, "image_features": self._fresh.image_features},
                {**outputs, "conditioned_features": self._fresh.conditioned_features.rows(*batch)},
            )
        entries = {name: self._scratch[name].rows(0, count) for name in ENTRY}
        images = ("mask_logits", "masks") if "masks" in self._scratch else ("mask_logits",)
        if self.device.view(entries["memory_values"]) is None:
            # The values are checked with the answers, which the host waits for. Keys are most of an entry, and a linear
            # function of its values: they are not downloaded on every frame. Keys that overflow float16 alone show in
            # the masks of the next frame, which is rejected.
            return self._outputs(0, count, (*images, "memory_values"))
        decoded = self._outputs(0, count, images)
        self._check_entries(entries)
        return decoded

    def prompt(
        self, row: int, prompt: PreparedPrompt, correcting: DecoderOutput | None, reads_memory: bool
    ) -> DecoderOutput:
        """Decode one object's prompt into its scratch row.

        Args:
            row: of the object.
            prompt: scaled to the model's size.
            correcting: the object's output on the kept frame, which is being corrected; None for a prompt on the fresh
                frame.
            reads_memory: whether the object was conditioned on its memory on that frame.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        frame = self._fresh if correcting is None else self._kept
        is_mask = prompt.mask is not None
        source = MASK_SOURCE_MASK if is_mask else MASK_SOURCE_NONE if correcting is None else MASK_SOURCE_LOGITS
        values: dict[str, np.ndarray] = {
            # As in the reference: the object pointer of a mask prompt is computed from the image features alone, while
            # the features of a click or box have the no-memory embedding added.
            "without_memory": np.array([not reads_memory and not is_mask], dtype=np.float32),
            "points": prompt.points[None],
            "labels": prompt.labels[None],
            "mask_source": np.array([source], dtype=np.int32),
            "multimask": np.array([prompt.count <= 1 and not is_mask], dtype=np.int32),
        }
        self._prompt.upload(values)
        if prompt.mask is not None:
            self.device.upload(prompt.mask[None], self._images["mask"])
        elif correcting is not None:
            logits = correcting.mask_logits[None].clip(-LOGIT_LIMIT, LOGIT_LIMIT)
            self.device.upload(logits, self._images["previous_logits"])
        if reads_memory and not is_mask:
            features = frame.conditioned_features.rows(row, row + 1)
        else:
            features = frame.image_features
        outputs = {name: self._scratch[name].rows(row, row + 1) for name in DECODED}
        inputs = {**self._prompt.tensors, **self._images, "features": features}
        self.backend.run("prompt", inputs, {**outputs, **self._candidates})
        return self._outputs(row, row + 1, ("mask_logits",))[0]

    def remember(self, row: int, mask_logits: np.ndarray, correcting: bool) -> None:
        """Encode a prompted mask as a memory entry into the object's scratch row.

        Args:
            row: of the object.
            mask_logits: float32 (S/4, S/4).
            correcting: whether the mask belongs to the kept frame and not the fresh one.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) its output is NaN or infinite.
        """
        frame = self._kept if correcting else self._fresh
        self.device.upload(mask_logits[None], self._mask_logits["mask_logits"])
        outputs = {name: self._scratch[name].rows(row, row + 1) for name in ENTRY} | self._unpooled
        self.backend.run("remember", {**self._mask_logits, "image_features": frame.image_features}, outputs)
        self._check_entries(outputs)

    # --- memory ---

    def store(self, row: int, placement: Placement) -> None:
        """Copy the object's new memory entry from its scratch row into the bank.

        The `track` graph cannot write into the bank directly: the slot that the entry goes to still holds the oldest
        frame, which the same call reads, and a frame that fails after the call must leave the bank unchanged.
        """
        slots = {"bank_keys": placement.slot, "bank_values": placement.slot, "bank_pointers": placement.pointer_slot}
        for name, bank in BANK.items():
            self.device.copy(self._scratch[name].at(row), self.bank[bank].at(row).at(slots[bank]))

    def store_unpooled(self, row: int, placement: Placement) -> None:
        """Copy the unpooled form of the entry that `remember` wrote last into its slots, if it has any."""
        for part, slot in enumerate(placement.unpooled_slots):
            for name, bank in UNPOOLED.items():
                self.device.copy(self._unpooled[name].at(0).at(part), self.bank[bank].at(row).at(slot))

    def keep(self, frame: int) -> None:
        """Make one of the two frames' features the kept ones, which corrections read, and the other ones the fresh.

        Args:
            frame: 0 or 1; a new workspace keeps 0. The buffers are exchanged, not copied.
        """
        self._kept, self._fresh = self._frames[frame], self._frames[1 - frame]

    def move_row(self, source: int, target: int) -> None:
        """Copy everything that is kept of the object in row `source` to row `target`."""
        for buffer in (*self.bank.values(), self._kept.conditioned_features):
            self.device.copy(buffer.at(source), buffer.at(target))

    def kept_state(self, rows: int) -> dict[str, Buffer]:
        """The buffers that a saved session consists of, by name, with the rows of the first objects.

        `kept_tensors` gives their shapes and types.
        """
        return {
            **{name: buffer.rows(0, rows) for name, buffer in self.bank.items()},
            "image_features": self._kept.image_features,
            "conditioned_features": self._kept.conditioned_features.rows(0, rows),
        }

    def _check_entries(self, buffers: Mapping[str, Buffer]) -> None:
        """Refuse memory that is NaN or infinite, which would spread to every later frame.

        Args:
            buffers: parts of memory entries, by the name of the graph's output.

        Raises:
            NotFiniteError
        """
        seen = {name: self.device.view(buffer) for name, buffer in buffers.items()}
        hidden = [name for name, values in seen.items() if values is None]
        seen |= dict(zip(hidden, self.device.download_all([buffers[name] for name in hidden]), strict=True))
        for name, values in seen.items():
            if values is not None and not all_finite(values):
                raise _not_finite(name)

    def _outputs(self, start: int, stop: int, images: Sequence[str]) -> list[DecoderOutput]:
        """The decoder's outputs in the scratch rows [start:stop], on the host.

        Args:
            images: names of larger tensors that are downloaded with the block of answers and checked: the decoder's
                images, and parts of memory entries.
        """
        parts = [self._answers.part(stop), *(self._scratch[name].rows(start, stop) for name in images)]
        content, *larger = self.device.download_all(parts)
        arrays = {name: array[start:] for name, array in self._answers.split(content, stop).items()}
        arrays |= dict(zip(images, larger, strict=True))
        # uint8 of 0 and 1, which has the representation of bool.
        masks = arrays.pop("masks").view(np.bool_) if "masks" in arrays else None
        for name, array in arrays.items():
            if not all_finite(array):
                raise _not_finite(name)
        return [
            DecoderOutput(
                mask_logits=arrays["mask_logits"][row],
                iou=float(arrays["iou"][row]),
                object_score=float(arrays["object_score"][row]),
                object_pointer=arrays["object_pointer"][row],
                mask_choice=int(arrays["mask_choice"][row]),
                mask=None if masks is None else masks[row],
            )
            for row in range(stop - start)
        ]


def kept_tensors(bundle: Bundle, rows: int) -> dict[str, TensorSpec]:
    """Names, shapes and types of what `Workspace.kept_state` returns for a number of objects."""
    track = bundle.manifest.graphs["track"].signature
    tensors = {tensor.name: tensor for tensor in (*track.inputs, *track.outputs)}
    names = (*BANK.values(), "image_features", "conditioned_features")
    return {name: replace(tensors[name], shape=tensors[name].sized(rows)) for name in names}


def all_finite(values: np.ndarray) -> bool:
    """Whether an array of floats, in any shape, holds neither NaN nor infinity."""
    if values.dtype == np.float16:
        # NumPy computes with float16 in software. The bits of the exponent, all set for NaN and infinity, are faster.
        return not ((values.view(np.uint16) & EXPONENT) == EXPONENT).any()
    return bool(np.isfinite(values).all())


def _not_finite(name: str) -> NotFiniteError:
    return NotFiniteError(
        f"the model's output {name} is NaN or infinite, and the frame was rejected; "
        "check the bundle's precision and the checkpoint it was exported from"
    )
