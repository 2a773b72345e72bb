"""All device memory of one session, and the graph calls on it.

Everything is allocated once. Graphs write into scratch rows, one row for each object; only `store` changes the bank,
and `keep_frame` what a later correction of the same frame reads. Until then the frame before stands as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etam_edge.bundle import Bundle, TensorSpec
from etam_edge.errors import NotFiniteError
from etam_edge.runtimes.backends.base import Backend
from etam_edge.runtimes.backends.buffers import Buffer
from etam_edge.runtimes.memory import Placement, SlotPlan
from etam_edge.runtimes.prompts import PreparedPrompt
from etam_edge.spec import MASK_SOURCE_LOGITS, MASK_SOURCE_MASK, MASK_SOURCE_NONE

BANK = {"memory_keys": "bank_keys", "memory_values": "bank_values", "object_pointer": "bank_pointers"}
"""What a graph writes for one frame, and the bank it is stored in."""
UNPOOLED = {"unpooled_keys": "bank_keys", "unpooled_values": "bank_values"}
SHARED = ("frame", "mask_logits", "masks")
"""What goes up and comes down on every frame: on a GPU that shares the CPU's memory it is not copied."""
ANSWER = ("mask_logits", "iou", "object_score", "object_pointer", "mask_choice")
LOGIT_LIMIT = 32.0
"""Previous mask logits are clamped to this before they prompt the decoder again."""


@dataclass(frozen=True, eq=False)
class DecoderOutput:
    """The mask decoder's output for one object on one frame, on the host.

    Attributes:
        mask: bool (H, W), the mask at the size of the frame, where the graph gave one.
    """

    mask_logits: np.ndarray
    iou: float
    object_score: float
    object_pointer: np.ndarray
    mask_choice: int
    mask: np.ndarray | None = None


@dataclass
class FrameFeatures:
    """What a correction of a frame needs again: raw features, and each object's conditioned ones."""

    image_features: Buffer
    conditioned_features: Buffer


class Workspace:
    """Buffers for `rows` objects."""

    def __init__(self, backend: Backend, bundle: Bundle, rows: int) -> None:
        self.backend = backend
        self.device = backend.device
        signatures = {name: entry.signature for name, entry in bundle.manifest.graphs.items()}
        track = {tensor.name: tensor for tensor in signatures["track"].inputs}

        def allocate(tensors: Iterable[TensorSpec], objects: int) -> dict[str, Buffer]:
            return {
                t.name: (self.device.shared if t.name in SHARED else self.device.empty)(t.sized(objects), t.dtype)
                for t in tensors
            }

        self.bank = allocate((track[name] for name in BANK.values()), rows)
        self._plan = allocate((track[name] for name in SlotPlan._fields), rows)
        self._frame = allocate(signatures["encode"].inputs, 1)
        conditioned = [t for t in signatures["track"].outputs if t.name == "conditioned_features"]
        self._scratch = allocate((t for t in signatures["track"].outputs if t not in conditioned), rows)
        self._prompt = allocate((t for t in signatures["prompt"].inputs if t.name != "features"), 1)
        self._mask_logits = allocate((t for t in signatures["remember"].inputs if t.name == "mask_logits"), 1)
        self._unpooled = allocate((t for t in signatures["remember"].outputs if t.name in UNPOOLED), 1)
        self._kept, self._fresh = (
            FrameFeatures(**allocate([track["image_features"]], 1), **allocate(conditioned, rows)) for _ in range(2)
        )

    # --- graphs ---

    def encode(self, frame: np.ndarray) -> None:
        """uint8 (1, S, S, 3), or of the bundle's frame size, to the fresh frame's features."""
        self.device.upload(frame, self._frame["frame"])
        self.backend.run("encode", self._frame, {"image_features": self._fresh.image_features})

    def track(self, plans: Sequence[SlotPlan]) -> list[DecoderOutput]:
        """Track the first objects on the fresh frame, one plan for each.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) answered NaN.
        """
        count = len(plans)
        for name, buffer in self._plan.items():
            self.device.upload(np.stack([getattr(plan, name) for plan in plans]), buffer.rows(0, count))
        inputs = {name: buffer.rows(0, count) for name, buffer in (self.bank | self._plan).items()}
        outputs = {name: buffer.rows(0, count) for name, buffer in self._scratch.items()}
        self.backend.run(
            "track",
            {**inputs, "image_features": self._fresh.image_features},
            {**outputs, "conditioned_features": self._fresh.conditioned_features.rows(0, count)},
        )
        decoded = self._outputs(0, count)
        if "masks" not in self._scratch:
            return decoded
        # 0 and 1, which are false and true.
        masks = self.device.download(self._scratch["masks"].rows(0, count)).view(np.bool_)
        return [replace(output, mask=mask) for output, mask in zip(decoded, masks, strict=True)]

    def prompt(
        self, row: int, prompt: PreparedPrompt, correcting: DecoderOutput | None, reads_memory: bool
    ) -> DecoderOutput:
        """Decode one object's prompt into its scratch row.

        Args:
            row: of the object.
            prompt: what the user says.
            correcting: the kept frame's output that is being corrected; None for a prompt on the fresh frame.
            reads_memory: whether the object read memory on that frame.

        Raises:
            EtamError: the graph failed, or (NotFiniteError) answered NaN.
        """
        frame = self._fresh if correcting is None else self._kept
        is_mask = prompt.mask is not None
        source = MASK_SOURCE_MASK if is_mask else MASK_SOURCE_NONE if correcting is None else MASK_SOURCE_LOGITS
        values: dict[str, np.ndarray] = {
            # A mask's pointer comes from the bare features; clicks and boxes see the no-memory embedding instead.
            "without_memory": np.array([not reads_memory and not is_mask], dtype=np.float32),
            "points": prompt.points[None],
            "labels": prompt.labels[None],
            "mask_source": np.array([source], dtype=np.int32),
            "multimask": np.array([prompt.count <= 1 and not is_mask], dtype=np.int32),
        }
        if prompt.mask is not None:
            values["mask"] = prompt.mask[None]
        elif correcting is not None:
            values["previous_logits"] = correcting.mask_logits[None].clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        for name, value in values.items():
            self.device.upload(value, self._prompt[name])
        if reads_memory and not is_mask:
            features = frame.conditioned_features.rows(row, row + 1)
        else:
            features = frame.image_features
        outputs = {name: self._scratch[name].rows(row, row + 1) for name in ANSWER}
        self.backend.run("prompt", {**self._prompt, "features": features}, outputs)
        return self._outputs(row, row + 1)[0]

    def remember(self, row: int, mask_logits: np.ndarray, correcting: bool) -> None:
        """Encode a prompted mask, float32 (S/4, S/4), as a memory entry into the object's scratch row."""
        frame = self._kept if correcting else self._fresh
        self.device.upload(mask_logits[None], self._mask_logits["mask_logits"])
        outputs = {name: self._scratch[name].rows(row, row + 1) for name in ("memory_keys", "memory_values")}
        self.backend.run(
            "remember", {**self._mask_logits, "image_features": frame.image_features}, {**outputs, **self._unpooled}
        )

    # --- memory ---

    def store(self, row: int, placement: Placement) -> None:
        """The object's scratch row becomes an entry of its bank: one copy within the device, and nothing else moves.

        `track` does not write into the bank itself. The slot that an entry goes to still holds the oldest frame, which
        the same call reads, and a frame that fails after the call must leave the bank as it was.
        """
        slots = {"bank_keys": placement.slot, "bank_values": placement.slot, "bank_pointers": placement.pointer_slot}
        for name, bank in BANK.items():
            self.device.copy(self._scratch[name].at(row), self.bank[bank].at(row).at(slots[bank]))

    def store_unpooled(self, row: int, placement: Placement) -> None:
        """The unpooled form that `remember` wrote last goes to the slots it was given, if any."""
        for part, slot in enumerate(placement.unpooled_slots):
            for name, bank in UNPOOLED.items():
                self.device.copy(self._unpooled[name].at(0).at(part), self.bank[bank].at(row).at(slot))

    def keep_frame(self) -> None:
        """The fresh frame becomes the one that corrections refer to."""
        self._kept, self._fresh = self._fresh, self._kept

    def move_row(self, source: int, target: int) -> None:
        """All that is kept of the object in row `source` goes to row `target`."""
        for buffer in (*self.bank.values(), self._kept.conditioned_features):
            self.device.copy(buffer.at(source), buffer.at(target))

    def kept_state(self, rows: int) -> dict[str, Buffer]:
        """The buffers that a resumed session needs, by name."""
        return {
            **{name: buffer.rows(0, rows) for name, buffer in self.bank.items()},
            "image_features": self._kept.image_features,
            "conditioned_features": self._kept.conditioned_features.rows(0, rows),
        }

    def _outputs(self, start: int, stop: int) -> list[DecoderOutput]:
        arrays = {name: self.device.download(self._scratch[name].rows(start, stop)) for name in ANSWER}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NotFiniteError(
                    f"the model answered NaN or infinity ({name}) and the frame was not taken; "
                    "check the bundle's precision and the checkpoint it was exported from"
                )
        return [
            DecoderOutput(
                mask_logits=arrays["mask_logits"][row],
                iou=float(arrays["iou"][row]),
                object_score=float(arrays["object_score"][row]),
                object_pointer=arrays["object_pointer"][row],
                mask_choice=int(arrays["mask_choice"][row]),
            )
            for row in range(stop - start)
        ]
