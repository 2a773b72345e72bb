"""Which frames are read, and where they lie: the bookkeeping against the rule, over random streams."""

from __future__ import annotations

import json

import numpy as np
import pytest

from etam_edge.runtimes.memory import ObjectMemory
from etam_edge.spec import EMPTY_BIAS, UNPOOLED_SLOTS, GraphSizes, ModelSpec, Pooling
from etam_edge_testing.small import small_spec


class Stream:
    """A stream whose slots hold frame numbers, so that what a plan reads can be told."""

    def __init__(self, spec: ModelSpec, sizes: GraphSizes) -> None:
        self.spec, self.sizes = spec, sizes
        self.memory = ObjectMemory(spec, sizes)
        self.slots = [-1] * sizes.slots(spec)
        self.pointer_slots = [-1] * sizes.pointer_slots(spec)
        self.conditioning: set[int] = set()
        self.now = -1

    def step(self, conditioning: bool) -> None:
        self.now += 1
        self.write(conditioning)

    def write(self, conditioning: bool) -> None:
        placement = self.memory.place(self.now, conditioning)
        self.slots[placement.slot] = self.now
        for slot in placement.unpooled_slots:
            self.slots[slot] = self.now
        self.pointer_slots[placement.pointer_slot] = self.now
        self.memory = self.memory.after(placement)
        (self.conditioning.add if conditioning else self.conditioning.discard)(self.now)

    def read(self) -> tuple[dict[int, int], set[int]]:
        """Frames that the next frame reads with their time codes, and frames whose pointers it reads."""
        plan = self.memory.plan(self.now + 1)
        used = np.flatnonzero(plan.slot_bias != EMPTY_BIAS)
        frames = [self.slots[slot] for slot in used]
        assert len(set(frames)) == len(frames) or len(used) == UNPOOLED_SLOTS
        pointers = np.flatnonzero(plan.pointer_bias != EMPTY_BIAS)
        return (
            {self.slots[slot]: int(plan.time_codes[slot]) for slot in used},
            {self.pointer_slots[slot] for slot in pointers},
        )

    def rule(self) -> tuple[dict[int, int], set[int]]:
        """The same by the reference's rule, from the history alone."""
        following = self.now + 1
        selected = sorted(self.conditioning)[-self.sizes.conditioning_frames :]
        recent = {following - age: age - 1 for age in range(1, self.spec.memory_frames) if following - age >= 0}
        codes = {**recent, **dict.fromkeys(selected, self.spec.memory_frames - 1)}
        started = min(self.conditioning)
        pointers = {following - age for age in range(1, self.spec.max_object_pointers)} | set(selected)
        return {t: code for t, code in codes.items() if t >= started}, {t for t in pointers if t >= started}


@pytest.mark.parametrize("conditioning_frames", [1, 2, 4])
@pytest.mark.parametrize("pooling", list(Pooling))
def test_plan_follows_the_rule(pooling: Pooling, conditioning_frames: int) -> None:
    rng = np.random.default_rng(conditioning_frames)
    for _ in range(20):
        stream = Stream(small_spec(pooling), GraphSizes(conditioning_frames=conditioning_frames))
        stream.now = int(rng.integers(-1, 30))
        stream.step(conditioning=True)
        for _ in range(60):
            frames, pointers = stream.read()
            expected, expected_pointers = stream.rule()
            assert pointers == expected_pointers
            if pooling is not Pooling.NONE and len(expected) == 1:
                assert frames == dict.fromkeys(expected, stream.spec.memory_frames), "a lone memory holds its own code"
            else:
                assert frames == expected
            stream.step(conditioning=bool(rng.random() < 0.15))
            if rng.random() < 0.1:  # a correction that becomes a conditioning frame, or stays what it was
                stream.write(conditioning=bool(rng.random() < 0.5) or stream.now in stream.conditioning)


def test_lone_memory_counts_unpooled_and_without_bias() -> None:
    stream = Stream(small_spec(Pooling.SCORE_BIAS), GraphSizes())
    stream.step(conditioning=True)
    plan = stream.memory.plan(1)
    assert (
        sorted(plan.slot_bias.tolist())
        == [EMPTY_BIAS] * (len(plan.slot_bias) - UNPOOLED_SLOTS) + [0.0] * UNPOOLED_SLOTS
    )
    stream.step(conditioning=False)
    plan = stream.memory.plan(2)
    assert np.isclose(plan.slot_bias, np.log(4)).sum() == 2


def test_state_survives_a_round_trip() -> None:
    stream = Stream(small_spec(Pooling.KEY_BIAS), GraphSizes())
    for index in range(9):
        stream.step(conditioning=index in (0, 4))
    other = ObjectMemory.from_dict(stream.spec, stream.sizes, json.loads(json.dumps(stream.memory.to_dict())), 8)
    for before, after in zip(stream.memory.plan(9), other.plan(9), strict=True):
        np.testing.assert_array_equal(before, after)
