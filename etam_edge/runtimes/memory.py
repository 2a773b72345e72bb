"""The memory of one object: which frames lie in which slots of the bank, and what each slot counts for.

Nothing in the bank moves when time passes. A slot's age is an index into the time code table, its presence a bias; both
are a few numbers that are written anew for every frame.

Which memory is read follows the reference (`_prepare_memory_conditioned_features` of its model): the conditioning
frames, the nearest in time up to a cap, and the last 6 other frames; object pointers of those conditioning frames and
of the last 15 others. A conditioning frame beyond the cap counts as an ordinary one while it is recent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from etam_edge.spec import EMPTY_BIAS, UNPOOLED_SLOTS, GraphSizes, ModelSpec, Pooling


class SlotPlan(NamedTuple):
    """What the slots count for on one frame.

    Attributes:
        time_codes: int32 (slots,), rows of the time code table.
        slot_bias: float32 (slots,); EMPTY_BIAS where a slot is not read.
        pointer_bias: float32 (pointer slots,).
    """

    time_codes: np.ndarray
    slot_bias: np.ndarray
    pointer_bias: np.ndarray


@dataclass(frozen=True)
class Entry:
    """One remembered frame: its slots, and whether it is a conditioning frame."""

    slot: int | None
    pointer_slot: int | None
    conditioning: bool


@dataclass(frozen=True)
class Placement:
    """Where the entry of `frame` goes, and what remains beside it."""

    frame: int
    slot: int
    pointer_slot: int
    unpooled_slots: tuple[int, ...]
    """Where its unpooled form goes too: only when it will stand alone."""
    entries: dict[int, Entry]
    """All entries once it is written."""


class ObjectMemory:
    """Bookkeeping for one object. Frames only grow; content is written by the session where `place` says."""

    def __init__(self, spec: ModelSpec, sizes: GraphSizes) -> None:
        self.spec = spec
        self.sizes = sizes
        self.slots = sizes.slots(spec)
        self.pointer_slots = sizes.pointer_slots(spec)
        self.entries: dict[int, Entry] = {}
        self.unpooled_slots: tuple[int, ...] = ()

    def plan(self, now: int) -> SlotPlan:
        """What frame `now` reads."""
        spec = self.spec
        no_code = spec.memory_frames
        time_codes = np.full(self.slots, no_code, dtype=np.int32)
        slot_bias = np.full(self.slots, EMPTY_BIAS, dtype=np.float32)
        pointer_bias = np.full(self.pointer_slots, EMPTY_BIAS, dtype=np.float32)
        selected = self._selected(self.entries)
        for frame, entry in self.entries.items():
            if entry.pointer_slot is not None:
                pointer_bias[entry.pointer_slot] = 0.0
            if entry.slot is not None:
                time_codes[entry.slot] = spec.memory_frames - 1 if frame in selected else now - frame - 1
                slot_bias[entry.slot] = math.log(4.0) if spec.pooling is Pooling.SCORE_BIAS else 0.0
        if self.unpooled_slots:
            # The reference attends to a lone memory unpooled; its keys hold their time code already.
            time_codes[:], slot_bias[:] = no_code, EMPTY_BIAS
            slot_bias[list(self.unpooled_slots)] = 0.0
        return SlotPlan(time_codes, slot_bias, pointer_bias)

    def place(self, frame: int, conditioning: bool) -> Placement:
        """Where the entry of `frame` goes: over its own earlier one, or over what no later frame will read."""
        before = self.entries.get(frame, Entry(None, None, conditioning))
        flags = {**{t: entry.conditioning for t, entry in self.entries.items()}, frame: conditioning}
        selected = sorted(t for t, is_conditioning in flags.items() if is_conditioning)[
            -self.sizes.conditioning_frames :
        ]
        kept: dict[int, Entry] = {}
        for t, entry in self.entries.items():
            if t == frame:
                continue
            age = frame + 1 - t
            slot = entry.slot if t in selected or age <= self.spec.recent_frames else None
            pointer = entry.pointer_slot if t in selected or age < self.spec.max_object_pointers else None
            if slot is not None or pointer is not None:
                kept[t] = Entry(slot, pointer, entry.conditioning)
        slot = _free(before.slot, self.slots, {entry.slot for entry in kept.values()})
        pointer_slot = _free(before.pointer_slot, self.pointer_slots, {entry.pointer_slot for entry in kept.values()})
        alone = all(entry.slot is None for entry in kept.values())
        others = tuple(index for index in range(self.slots) if index != slot)[:UNPOOLED_SLOTS]
        return Placement(
            frame=frame,
            slot=slot,
            pointer_slot=pointer_slot,
            unpooled_slots=others if alone and self.spec.pooled else (),
            entries={**kept, frame: Entry(slot, pointer_slot, conditioning)},
        )

    def commit(self, placement: Placement) -> None:
        """The entry has been written where `placement` says."""
        self.entries = placement.entries
        self.unpooled_slots = placement.unpooled_slots

    def is_conditioning(self, frame: int) -> bool:
        entry = self.entries.get(frame)
        return entry is not None and entry.conditioning

    def _selected(self, entries: dict[int, Entry]) -> list[int]:
        return sorted(t for t, entry in entries.items() if entry.conditioning)[-self.sizes.conditioning_frames :]

    def to_dict(self) -> dict[str, object]:
        return {
            "entries": [[t, e.slot, e.pointer_slot, e.conditioning] for t, e in self.entries.items()],
            "unpooled_slots": list(self.unpooled_slots),
        }

    def restore(self, fields: dict) -> None:
        """Take over what `to_dict` gave."""
        self.entries = {t: Entry(slot, pointer, bool(flag)) for t, slot, pointer, flag in fields["entries"]}
        self.unpooled_slots = tuple(fields["unpooled_slots"])


def _free(preferred: int | None, count: int, taken: set[int | None]) -> int:
    if preferred is not None:
        return preferred
    return next(index for index in range(count) if index not in taken)
