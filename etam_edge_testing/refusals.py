"""Checks of commands whose arguments or input are wrong."""

from __future__ import annotations

from typer.testing import Result

from etam_edge.errors import EtamError


def refused(result: Result, *sentences: str) -> None:
    """Assert that a command failed with exit code 2 and a message of one line that contains all of `sentences`."""
    assert isinstance(result.exception, EtamError), (result.exception, result.output)
    assert result.exception.exit_code == 2
    text = str(result.exception)
    assert "\n" not in text
    for sentence in sentences:
        assert sentence in text, text
