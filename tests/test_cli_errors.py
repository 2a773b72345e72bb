"""Errors name parameters below the command line, and options on it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import etam_edge
from etam_edge.cli.options import Command
from etam_edge.errors import EtamError, InputError

PACKAGE = Path(etam_edge.__file__).parent
OPTION = re.compile(r"(?:^|[\s('`])--[a-z]")
WHOLE_COMMAND = re.compile(r"etam-edge |python3 -m venv |^(?:[^-]*\{\})? --")
"""A command that can be copied, or an option added to one in a placeholder."""
OTHER_PROGRAMS = {"benchmark/machine.py", "evaluation/report.py"}
"""Modules with options of nvidia-smi, and with CSS variables."""


def shown(message: str) -> str:
    """An error as a command shows it that has an argument, options and a flag; another command has `max_points`."""
    app = typer.Typer()

    @app.command(cls=Command)
    def quantize(
        bundle: str,
        max_drop: float = 0.0,
        region: Annotated[list[str] | None, typer.Option()] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
        float_precision: str = "",
    ) -> None:
        raise InputError(message)

    @app.command(cls=Command)
    def export(max_points: int = 0) -> None:
        pass

    result = CliRunner().invoke(app, ["quantize", "x"])
    assert isinstance(result.exception, InputError)
    return str(result.exception)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("`max_drop` cannot be judged", "--max-drop cannot be judged"),
        ("`max_drop=-1` is not a number", "--max-drop -1 is not a number"),
        ("add `overwrite=True` to replace it", "add --overwrite to replace it"),
        ('keep it with `float_precision="fp32"`', "keep it with --float-precision fp32"),
        ("add `regions={'neck': 'fp32', 'vit_global': 'fp16'}`", "add --region neck=fp32 --region vit_global=fp16"),
        ("`max_drop` or `overwrite`", "--max-drop or --overwrite"),
        ("name a `bundle`", "name a BUNDLE"),
        ("export it with a larger `max_points`", "export it with a larger --max-points"),
        ("a recording of `etam-edge record`", "a recording of `etam-edge record`"),
        ("`no_such_parameter=1`", "`no_such_parameter=1`"),
        ("a file named {braces} and %s", "a file named {braces} and %s"),
    ],
)
def test_commands_name_options_where_the_library_names_parameters(message: str, text: str) -> None:
    assert shown(message) == text


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of all strings of a module, with {} for what is formatted into them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in formatted for part in ast.walk(node) if part != node}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_no_module_outside_the_command_line_names_an_option() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith("cli/") or place in OTHER_PROGRAMS | {"errors.py"}:
            continue
        for line, text in strings(path):
            if OPTION.search(text) and not WHOLE_COMMAND.search(text):
                found.append(f"{place}:{line}: {text}")
    assert found == []


def test_wrong_input_is_a_value_error_too() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, EtamError)
