"""What the fuzzers share: seeded attempts, and the rule that each of them ends well or with an EtamError.

A fuzzer makes few attempts by default. ETAM_EDGE_FUZZ=100 makes a hundred times as many, with other seeds.
"""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from etam_edge.errors import EtamError

FACTOR = int(os.environ.get("ETAM_EDGE_FUZZ", "1"))
MAX_LISTED = 5


def attempts(count: int) -> Iterator[random.Random]:
    """A random generator for each attempt, `count` of them by default."""
    for seed in range(count * FACTOR):
        yield random.Random(seed)


class Outcomes:
    """Counts how attempts end. What is neither accepted nor refused in a sentence is a failure."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    @contextmanager
    def attempt(self, what: object, allowed: tuple[type[BaseException], ...] = (EtamError,)) -> Iterator[None]:
        """One attempt: its block may end normally or with an error of an allowed type, of one line.

        Args:
            what: the attempt in words, for the report of failures.
            allowed: types of errors that are good ends.
        """
        try:
            with warnings.catch_warnings():
                # A warning about a value that should have been refused is a failure as well.
                warnings.simplefilter("error")
                yield
        except allowed as error:
            self.counts["refused"] += 1
            text = str(error)
            if "\n" in text or len(text) > 2000 or not text.isprintable():
                self.fail(what, f"message {text[:300]!r}")
        except Exception as error:
            self.fail(what, repr(error)[:300])
        else:
            self.counts["accepted"] += 1

    def fail(self, what: object, why: str) -> None:
        """Record that an attempt ended badly."""
        self.counts["failed"] += 1
        self.failures.append(f"{what}: {why}")

    def check(self, *, refused: int = 1, accepted: int = 0) -> None:
        """Assert that nothing failed, and that the attempts were worth making.

        Args:
            refused, accepted: attempts that must have ended so, at least.
        """
        print(dict(self.counts))
        listed = "\n".join(self.failures[:MAX_LISTED])
        assert not self.failures, f"{len(self.failures)} of {self.counts.total()} attempts failed:\n{listed}"
        assert self.counts["refused"] >= refused, self.counts
        assert self.counts["accepted"] >= accepted, self.counts


STRANGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda random: None,
    lambda random: True,
    lambda random: random.choice([-1, 0, 1, 2, 3, 7, 16, 255]),
    lambda random: random.choice([10**6, 2**31, 2**32, 2**63, 10**12, 32_000_000, -(2**63), 10**400]),
    lambda random: random.choice([0.5, -0.0, 1e308, 2.0, 1e-320]),
    lambda random: random.choice([float("nan"), float("inf"), float("-inf")]),
    lambda random: random.choice(["", "x", "0", "key_bias", "none", "\x1b[31m", "a" * 5000, "\u00e9", "../..", "a\0b"]),
    lambda random: "\ud800",
    lambda random: [],
    lambda random: {},
    lambda random: [random.randrange(4) for _ in range(random.randrange(6))],
    lambda random: [[[]]],
    lambda random: {"a": 1},
)
"""Makers of values that JSON can hold and a field does not expect."""


def strange_value(source: random.Random) -> Any:
    """A value that a field does not expect."""
    return source.choice(STRANGE)(source)


def mutate_json(value: Any, source: random.Random) -> tuple[Any, str]:
    """A copy of a JSON value with one place changed, and which place that is."""
    places = list(_places(value, ()))
    path = source.choice(places)
    change = source.choice(["replace", "replace", "nudge", "remove", "repeat", "add"])
    return _changed(value, path, change, source), f"{change} {'.'.join(map(str, path))}"


def mutate_bytes(data: bytes, source: random.Random) -> bytes:
    """A copy with some bytes flipped, cut out, repeated or overwritten."""
    found = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 8])):
        start = source.randrange(max(1, len(found)))
        size = source.choice([1, 2, 4, 16, 200])
        kind = source.choice(["flip", "cut", "end", "repeat", "fill"])
        if kind == "flip" and found:
            found[start] ^= 1 << source.randrange(8)
        elif kind == "cut":
            del found[start : start + size]
        elif kind == "end":
            del found[start:]
        elif kind == "repeat":
            found[start:start] = found[start : start + size]
        else:
            found[start : start + size] = bytes([source.choice([0, 255, 127, 80])]) * size
    return bytes(found)


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], change: str, source: random.Random) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    key = path[0]
    if len(path) > 1:
        copy[key] = _changed(copy[key], path[1:], change, source)
    elif change == "remove":
        del copy[key]
    elif change == "repeat" and isinstance(copy, list):
        copy.insert(key, copy[key])
    elif change == "add" and isinstance(copy, dict):
        copy[source.choice(["x", "name", "file", "row", "sha256", "extra", "colour"])] = strange_value(source)
    elif change == "nudge" and type(copy[key]) in (int, float):
        copy[key] += source.choice([-1, 1, 16, -32])
    else:
        copy[key] = strange_value(source)
    return copy
