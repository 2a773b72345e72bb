"""What viewers ask for: messages of the page, checked and typed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etam_edge.errors import InputError
from etam_edge.media.prompt_files import MAX_LABEL
from etam_edge.runtimes.types import Prompt

MAX_CLICKS = 64


@dataclass(frozen=True, eq=False)
class AddPrompt:
    """A new object, or a correction of one.

    Attributes:
        snapshot: number of the snapshot that was clicked on.
        object_id: of the object to correct; None for a new one.
        prompt: points or a box, in pixels of the frame.
    """

    snapshot: int
    object_id: int | None
    prompt: Prompt


@dataclass(frozen=True)
class Remove:
    """Stop tracking an object."""

    object_id: int


@dataclass(frozen=True)
class SetLabel:
    """Give an object a name; an empty one takes it away."""

    object_id: int
    label: str


@dataclass(frozen=True)
class Reset:
    """Stop tracking all objects."""


@dataclass(frozen=True)
class Play:
    """Where the page controls the source: play on, or pause."""

    on: bool


@dataclass(frozen=True)
class Step:
    """Where the page controls the source: the next frame, then pause."""


@dataclass(frozen=True)
class Finish:
    """Where the page controls the source: end the run."""


Command = AddPrompt | Remove | SetLabel | Reset | Play | Step | Finish


@dataclass(frozen=True)
class Acknowledge:
    """A viewer has shown a snapshot, and can take the next one."""

    snapshot: int


@dataclass(frozen=True)
class Freeze:
    """A viewer keeps its picture, or goes on."""

    on: bool


def parse_message(text: str) -> Command | Acknowledge | Freeze:
    """A message of the page.

    Raises:
        InputError: it has another form.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("the message is not JSON; reload the page") from None
    if not isinstance(message, dict):
        raise InputError("the message is no JSON object; reload the page")
    kind = str(message.get("type"))
    if kind == "prompt":
        given = message.get("object")
        return AddPrompt(
            _whole(message, "snapshot"), None if given is None else _whole(message, "object"), _prompt(message)
        )
    if kind == "ack":
        return Acknowledge(_whole(message, "snapshot"))
    if kind == "remove":
        return Remove(_whole(message, "object"))
    if kind == "label":
        label = message.get("label")
        if not isinstance(label, str) or len(label) > MAX_LABEL or not label.isprintable():
            raise InputError(f"a name has at most {MAX_LABEL} printable characters; choose another")
        return SetLabel(_whole(message, "object"), label.strip())
    if kind in ("freeze", "play"):
        on = message.get("on")
        if not isinstance(on, bool):
            raise InputError(f"`on` of the message {kind} is neither true nor false; reload the page")
        return Freeze(on) if kind == "freeze" else Play(on)
    if kind in _PLAIN:
        return _PLAIN[kind]()
    raise InputError(f"the message type {kind!r:.40} is unknown; reload the page")


_PLAIN: Mapping[str, type[Reset] | type[Step] | type[Finish]] = {"reset": Reset, "step": Step, "finish": Finish}


def _whole(message: Mapping[str, Any], key: str) -> int:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InputError(f"`{key}` of the message {message['type']} is not a whole number; reload the page")
    return value


def _prompt(message: Mapping[str, Any]) -> Prompt:
    points, labels, box = message.get("points"), message.get("labels"), message.get("box")
    if points is not None and not (
        isinstance(points, list) and len(points) <= MAX_CLICKS and all(_is_numbers(point, 2) for point in points)
    ):
        raise InputError("`points` of the message prompt are not a list of [x, y]; reload the page")
    if labels is not None and not (isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise InputError("`labels` of the message prompt are not a list of 0 and 1; reload the page")
    if box is not None and not _is_numbers(box, 4):
        raise InputError("`box` of the message prompt is not [x0, y0, x1, y1]; reload the page")
    return Prompt(points=points, labels=labels, box=box)


def _is_numbers(value: Any, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(number) in (int, float) and math.isfinite(number) for number in value)
