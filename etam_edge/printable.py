"""Text that terminals, HTML and plots show as it is, whatever names of files and clips hold."""

from __future__ import annotations

import re
from typing import Any

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and newline, marks that reorder text, and bytes of names that are not UTF-8."""


def printable(text: str) -> str:
    r"""The text with such characters as escapes: ESC becomes \x1b, and the byte E9 of a name \xe9."""
    return _UNPRINTABLE.sub(lambda match: _escape(ord(match[0])), text)


def one_line(text: str) -> str:
    r"""As `printable`, with tabs and newlines as \t and \n."""
    return printable(text).replace("\t", r"\t").replace("\n", r"\n")


def storable(value: Any) -> Any:
    """A value for JSON with its strings as `one_line`: manifests with other ones are refused when they are read."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        # How Python keeps a byte that it could not decode.
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
