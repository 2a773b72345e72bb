"""Bookkeeping of one object's memory: which frame is in which slot of the bank, and how each slot is read.

An entry stays in its slot as it ages. What changes from frame to frame are a few numbers, the `SlotPlan`: for each slot
an index into the table of time codes, which encodes its age, and a bias on its attention logits, which excludes slots
that are not read (a large negative number). So nothing is copied to reorder memory, and objects with different
histories are processed in one batch by one static graph.

Which entries are read follows the reference (`_prepare_memory_conditioned_features` of its model):

- conditioning frames, up to a cap the nearest in time (the reference keeps all);
- the last 6 other frames;
- object pointers of those conditioning frames and of the last 15 others.

A conditioning frame beyond the cap is read like an ordinary one while it is among the last 6.

The reference reads a single memory frame unpooled, although the model pools memory. Such an entry is therefore written
twice: pooled into its own slot, and unpooled into the slots that are still unused, which it occupies until a second
entry is written. The graph reads one form or the other, by the biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from etam_edge.errors import shown
from etam_edge.spec import EMPTY_BIAS, UNPOOLED_SLOTS, GraphSizes, ModelSpec, Pooling


class SlotPlan(NamedTuple):
    """How the slots of one object are read on one frame: inputs of the `track` graph.

    Attributes:
        time_codes: int32 (slots,), row of the table of time codes for each slot: 0 for the previous frame, up to 5 for
            the sixth before, 6 for a conditioning frame, 7 (zeros) for none.
        slot_bias: float32 (slots,), added to a slot's attention logits: EMPTY_BIAS where the slot is not read; else 0,
            or ln 4 for a variant that adds it to the logits of pooled memory.
        pointer_bias: float32 (pointer slots,), the same for object pointers.
    """

    time_codes: np.ndarray
    slot_bias: np.ndarray
    pointer_bias: np.ndarray


@dataclass(frozen=True)
class Entry:
    """One remembered frame.

    Attributes:
        slot: of its spatial memory, or None where that has been overwritten or is no longer read.
        pointer_slot: of its object pointer, or None in the same way.
        conditioning: whether it is a conditioning frame.
    """

    slot: int | None
    pointer_slot: int | None
    conditioning: bool


@dataclass(frozen=True)
class Placement:
    """Where a new entry is written. `ObjectMemory.after` gives the memory with it.

    Attributes:
        frame: index of the frame.
        slot, pointer_slot: that the entry is written to.
        unpooled_slots: that its unpooled form is written to, where it will be the only entry; else empty.
        entries: all entries by frame once it is written.
    """

    frame: int
    slot: int
    pointer_slot: int
    unpooled_slots: tuple[int, ...]
    entries: Mapping[int, Entry]


class ObjectMemory:
    """The memory entries of one object and their slots. Contents are in the session's `Workspace`.

    It does not change: `after` returns the memory with one more entry.

    Args:
        spec: the model, for the number of frames and pointers that are read.
        sizes: of the graphs, for the number of conditioning frames.
        entries: by frame.
        unpooled_slots: that hold the unpooled form of the only entry, where there is one.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sizes: GraphSizes,
        entries: Mapping[int, Entry] = MappingProxyType({}),
        unpooled_slots: tuple[int, ...] = (),
    ) -> None:
        self.spec = spec
        self.sizes = sizes
        self.slots = sizes.slots(spec)
        self.pointer_slots = sizes.pointer_slots(spec)
        self.entries = entries
        self.unpooled_slots = unpooled_slots

    def plan(self, now: int) -> SlotPlan:
        """How the slots are read on frame `now`."""
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
            # The only entry is read unpooled. Its unpooled keys contain their time code already.
            time_codes[:], slot_bias[:] = no_code, EMPTY_BIAS
            slot_bias[list(self.unpooled_slots)] = 0.0
        return SlotPlan(time_codes, slot_bias, pointer_bias)

    def place(self, frame: int, conditioning: bool) -> Placement:
        """Choose the slots for the entry of `frame`; `after` gives the memory with it.

        An entry of the same frame is overwritten (a correction). Otherwise a slot is used that no later frame will
        read: one that is empty, or whose entry is too old by then.

        Args:
            frame: index, at least that of the newest entry.
            conditioning: whether it becomes a conditioning frame.
        """
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
        return Placement(
            frame=frame,
            slot=slot,
            pointer_slot=pointer_slot,
            unpooled_slots=self._unpooled_slots(slot) if alone else (),
            entries={**kept, frame: Entry(slot, pointer_slot, conditioning)},
        )

    def after(self, placement: Placement) -> ObjectMemory:
        """The memory once the entry has been written as `place` chose."""
        return ObjectMemory(self.spec, self.sizes, placement.entries, placement.unpooled_slots)

    def is_conditioning(self, frame: int) -> bool:
        """Whether there is an entry of this frame, and it is a conditioning frame."""
        entry = self.entries.get(frame)
        return entry is not None and entry.conditioning

    def _selected(self, entries: Mapping[int, Entry]) -> list[int]:
        """The conditioning frames that are read as such: the newest, up to the cap."""
        return sorted(t for t, entry in entries.items() if entry.conditioning)[-self.sizes.conditioning_frames :]

    def _unpooled_slots(self, slot: int) -> tuple[int, ...]:
        """Where the unpooled form of an entry that is alone in its slot is written: none if memory is not pooled."""
        others = (index for index in range(self.slots) if index != slot)
        return tuple(others)[:UNPOOLED_SLOTS] if self.spec.pooled else ()

    def to_dict(self) -> dict[str, object]:
        """The bookkeeping as plain values, for a saved session."""
        return {
            "entries": [[t, e.slot, e.pointer_slot, e.conditioning] for t, e in self.entries.items()],
            "unpooled_slots": list(self.unpooled_slots),
        }

    @classmethod
    def from_dict(cls, spec: ModelSpec, sizes: GraphSizes, fields: object, newest: int) -> ObjectMemory:
        """The memory that `to_dict` described.

        Everything is checked that `place` and `plan` rely on: a slot out of range would be written outside the bank.

        Args:
            spec, sizes: as of the constructor.
            fields: that `to_dict` returned, from a file.
            newest: index of the last frame, which every object has an entry of.

        Raises:
            ValueError: the fields are not what `to_dict` returns for an object of this model.
        """
        if not isinstance(fields, dict) or set(fields) != {"entries", "unpooled_slots"}:
            raise ValueError("the memory of an object is not entries and unpooled slots")
        empty = cls(spec, sizes)
        rows, unpooled = fields["entries"], fields["unpooled_slots"]
        # No object has more entries than slots; a longer list is not worth reading.
        most = empty.slots + empty.pointer_slots
        if not isinstance(rows, list) or not 0 < len(rows) <= most or not isinstance(unpooled, list):
            raise ValueError(f"the memory of an object is not a list of 1 to {most} entries")
        entries = dict(empty._entry(row, newest) for row in rows)
        memory = cls(spec, sizes, entries, tuple(unpooled))
        memory._check(newest, len(rows))
        return memory

    def _entry(self, row: object, newest: int) -> tuple[int, Entry]:
        if not isinstance(row, list) or len(row) != 4 or type(row[3]) is not bool:
            raise ValueError(f"a memory entry is {shown(row)}, not [frame, slot, pointer slot, conditioning]")
        frame, slot, pointer_slot, conditioning = row
        if type(frame) is not int or not 0 <= frame <= newest:
            raise ValueError(f"a memory entry is of frame {shown(frame)}, and the last frame is {newest}")
        for value, count in ((slot, self.slots), (pointer_slot, self.pointer_slots)):
            if value is not None and (type(value) is not int or not 0 <= value < count):
                raise ValueError(f"a memory entry is in slot {shown(value)} of {count}")
        return frame, Entry(slot, pointer_slot, conditioning)

    def _check(self, newest: int, count: int) -> None:
        """
        Raises:
            ValueError: no stream of frames leads to these entries.
        """
        entries = self.entries.values()
        slots = [entry.slot for entry in entries if entry.slot is not None]
        pointers = [entry.pointer_slot for entry in entries if entry.pointer_slot is not None]
        if len(self.entries) != count or len(set(slots)) != len(slots) or len(set(pointers)) != len(pointers):
            raise ValueError("two memory entries share a frame or a slot")
        last = self.entries.get(newest)
        if last is None or last.slot is None or last.pointer_slot is None:
            raise ValueError(f"an object has no memory entry of frame {newest}, the last one")
        selected = self._selected(self.entries)
        if not selected:
            raise ValueError("an object has no conditioning frame")
        for frame, entry in self.entries.items():
            age = newest + 1 - frame
            held = (
                (entry.slot, frame in selected or age <= self.spec.recent_frames),
                (entry.pointer_slot, frame in selected or age < self.spec.max_object_pointers),
            )
            if any(slot is not None and not read for slot, read in held):
                raise ValueError(f"the memory entry of frame {frame} is too old to be read after frame {newest}")
        unpooled = self._unpooled_slots(slots[0]) if len(slots) == 1 else ()
        # Compared with their types, because true equals 1.
        if [*map(repr, self.unpooled_slots)] != [*map(repr, unpooled)]:
            raise ValueError(f"unpooled slots are {shown(list(self.unpooled_slots))}, and should be {list(unpooled)}")


def _free(preferred: int | None, count: int, taken: set[int | None]) -> int:
    """`preferred` where it is given, else the first of `count` slots that is not taken."""
    if preferred is not None:
        return preferred
    return next(index for index in range(count) if index not in taken)
