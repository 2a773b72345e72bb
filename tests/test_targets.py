"""One table of targets: what the command, `doctor` and the docs say is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from etam_edge.bundle.targets import MEBIBYTE, TARGETS, find_target, version_numbers
from etam_edge.cli.app import app
from etam_edge.errors import InputError

DOCS = Path(__file__).parent.parent / "docs"


def test_docs_hold_the_table() -> None:
    text = (DOCS / "tensorrt.md").read_text(encoding="utf-8")
    for target in TARGETS.values():
        capability = "its own" if target.compute_capability is None else ".".join(map(str, target.compute_capability))
        cells = (f"`{target.name}`", target.device, capability, target.system, " to ".join(target.tensorrt))
        row = f"| {' | '.join((*cells, f'{target.workspace // MEBIBYTE} MB', target.advice))} |"
        assert row in text.splitlines(), row


def test_the_command_names_every_target() -> None:
    text = " ".join(CliRunner().invoke(app, ["build", "--help"], env={"COLUMNS": "400"}).output.split())
    for target in TARGETS.values():
        assert target.name in text
        assert target.device in text


def test_targets_are_found_by_name() -> None:
    assert find_target("jetson-orin").compute_capability == (8, 7)
    with pytest.raises(InputError, match="no target is named 'orin'; targets: a100, jetson-orin"):
        find_target("orin")


def test_versions_are_numbers_as_far_as_they_go() -> None:
    assert version_numbers("10.13.2.6") == (10, 13, 2, 6)
    assert version_numbers("8.6.1.post1") == (8, 6, 1)
    assert version_numbers("10.16") > version_numbers("10.3")
