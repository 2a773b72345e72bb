"""The option `--threads` of the commands: a number, or "auto"."""

from __future__ import annotations

from typing import Any

import typer

AUTO = "auto"


def _parse(text: str) -> int | None:
    """None for "auto".

    Raises:
        typer.BadParameter: it is neither a number from 1 on nor "auto".
    """
    if text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"'{text}' is neither a number of threads, 1 or more, nor 'auto'")
    return int(text)


THREADS: dict[str, Any] = {"parser": _parse, "metavar": "N|auto", "show_default": AUTO}
"""Settings of the `typer.Option`."""
