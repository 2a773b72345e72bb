"""One table of targets: what the command, `doctor` and the docs say is the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from etam_edge.bundle.memory import scratch_memory
from etam_edge.bundle.targets import MEBIBYTE, TARGETS, find_target, version_numbers
from etam_edge.cli.app import app
from etam_edge.errors import InputError
from etam_edge.recipe import FP16, Recipe
from etam_edge.spec import MODELS, GraphSizes

DOCS = Path(__file__).parent.parent / "docs"


def test_docs_hold_the_table() -> None:
    text = (DOCS / "tensorrt.md").read_text(encoding="utf-8")
    for target in TARGETS.values():
        capability = "its own" if target.compute_capability is None else ".".join(map(str, target.compute_capability))
        cells = (f"`{target.name}`", target.device, capability, target.system, " to ".join(target.tensorrt))
        row = (
            f"| {' | '.join((*cells, f'{target.workspace // MEBIBYTE} MB', str(target.max_objects), target.advice))} |"
        )
        assert row in text.splitlines(), row


def test_docs_hold_the_estimate_of_memory() -> None:
    text = (DOCS / "tensorrt.md").read_text(encoding="utf-8")
    for spec in MODELS.values():
        [row] = [line for line in text.splitlines() if re.match(rf"\| [^|]*`{spec.name}`[^|]* \| \d+ \|", line)]
        estimates = [
            scratch_memory(spec, GraphSizes(), Recipe.default(FP16), "track", objects) for objects in (1, 2, 4, 8)
        ]
        assert [int(cell) for cell in row.split("|")[2:-1]] == [round(estimate / 1e6) for estimate in estimates]


def test_scores_of_cross_attention_dominate_the_estimate() -> None:
    """One tensor of scores for 8 objects is 135 MB at 512 px, 541 MB for `_2` and 2.15 GB for the unpooled 1024 px."""
    for name, megabytes in (("efficienttam_ti_512x512", 135), ("efficienttam_ti_2", 541), ("efficienttam_ti", 2152)):
        spec, sizes = MODELS[name], GraphSizes()
        keys = sizes.slots(spec) * spec.memory_tokens + sizes.pointer_slots(spec) * spec.pointer_tokens
        scores = 2 * 8 * spec.tokens * keys
        assert round(scores / 1e6) == megabytes
        estimate = scratch_memory(spec, sizes, Recipe.default(FP16), "track", 8)
        assert 2 * scores < estimate < 3.1 * scores


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
