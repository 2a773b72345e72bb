"""What a command says when the call or its input is wrong."""

from __future__ import annotations

from typer.testing import Result

from etam_edge.errors import EtamError


def refused(result: Result, *sentences: str) -> None:
    """One clear line that holds all of `sentences`, and the exit code of a wrong call."""
    assert isinstance(result.exception, EtamError), (result.exception, result.output)
    assert result.exception.exit_code == 2
    text = str(result.exception)
    assert "\n" not in text
    for sentence in sentences:
        assert sentence in text, text
