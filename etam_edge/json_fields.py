"""Fields of JSON files, held to the type annotations of the dataclass that they become.

A file can hold anything where a number is expected: text, a list, a number that no memory is large enough for.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from etam_edge.errors import shown

MAX_INTEGER = 1 << 62
MAX_FLOAT = 1e300
MAX_TEXT = 10_000
"""Characters of a text in a field."""


def check_fields(cls: type, fields: dict[str, Any]) -> None:
    """Check values by the annotations of a dataclass's fields. Fields that it does not have are not looked at.

    Annotations may be int, float, str, bool, None, Any, unions of these, and `list`, `tuple[X, ...]` and `dict[str, X]`
    of them; what stands in another class, which checks itself, is expected to be a JSON object.

    Raises:
        TypeError: the value of a field has another type, or is out of bounds.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in fields:
            check_value(fields[field.name], hints[field.name], field.name)


def check_value(value: Any, annotation: Any, what: str) -> None:
    """Check one value by an annotation, as `check_fields` does.

    Raises:
        TypeError: it has another type, or is out of bounds.
    """
    if annotation is str and isinstance(value, str) and not is_text(value):
        raise TypeError(f"{what} is {shown(value)}, too long or with control characters")
    if not _fits(value, annotation, what):
        kind = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
        raise TypeError(f"{what} is {shown(value)}, not of type {kind}")


def _fits(value: Any, annotation: Any, what: str) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one, what) for one in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return type(value) is int and abs(value) <= MAX_INTEGER
    if annotation is float:
        # NaN and infinity are figures that were not to be had.
        return type(value) in (int, float) and not MAX_FLOAT < abs(value) < float("inf")
    if annotation is str:
        return isinstance(value, str) and is_text(value)
    if origin in (list, tuple):
        items = arguments[0]
        return isinstance(value, list | tuple) and all(_fits(one, items, what) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_text(key) and _fits(one, arguments[1], what) for key, one in value.items()
        )
    return isinstance(value, dict)


def is_text(value: str) -> bool:
    """Whether a string can be shown: it is not too long, and holds no control characters but line ends and tabs."""
    return len(value) <= MAX_TEXT and not any((ord(one) < 32 and one not in "\n\t") or ord(one) == 127 for one in value)
