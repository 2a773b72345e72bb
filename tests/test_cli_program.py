"""What all commands share: help, version, --quiet, warnings and completion."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import etam_edge
from etam_edge.cli import options
from etam_edge.cli.app import COMMANDS, app
from etam_edge.cli.options import Command, with_quiet


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})


def test_version_is_the_installed_one() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output == f"etam-edge {etam_edge.__version__}\n"
    assert etam_edge.__version__ == metadata.version("etam-edge")


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_has_help_and_quiet(command: str) -> None:
    short, long = run(command, "-h"), run(command, "--help")
    assert short.exit_code == long.exit_code == 0
    assert short.output == long.output
    assert "--quiet" in short.output


def test_help_names_all_commands_and_completion() -> None:
    text = run("-h").output
    for command in COMMANDS:
        assert f" {command.__name__} " in text
    assert "--install-completion" in text
    assert run().exit_code == 2


def test_completion_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = run("--show-completion", "bash")
    assert result.exit_code == 0
    assert "_ETAM_EDGE_COMPLETE" in result.output


def test_quiet_leaves_out_the_next_command() -> None:
    assert "next: etam-edge" in run("models").output
    for arguments in (("models", "--quiet"), ("models", "-q"), ("--quiet", "models")):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "etam_nano" in result.output
        assert "next:" not in result.output
    assert "next: etam-edge" in run("models").output, "the option is of one call"


def test_warnings_of_the_package_are_shown_once_each() -> None:
    one = typer.Typer()

    @one.command(cls=Command)
    @with_quiet
    def warn() -> None:
        logging.getLogger("etam_edge.workflows.check").warning("%s [red] differs", Path("b"))

    for _ in range(2):
        result = CliRunner().invoke(one, ["--quiet"])
        assert result.stderr == "warning: b [red] differs\n"
    assert options.is_quiet
    CliRunner().invoke(one, [])
    options.set_quiet(False)
