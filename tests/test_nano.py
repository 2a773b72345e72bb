"""End to end with trained weights: real and drawn frames, ground truth, and what a broken memory would do to them.

The floors are the figures of the packaged weights (etam_edge/weights/MODEL_CARD.md) less a margin for other processors.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etam_edge import Tracker
from etam_edge.runtimes.workspace import Workspace

pytest.importorskip("torch")
pytest.importorskip("cv2")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "train_nano"))

from evaluate import similarities

FLOORS = json.loads((Path(__file__).parent / "data" / "nano_floors.json").read_text())
"""Mean J of the tracked frames on which the object is visible; written by examples/train_nano/pack.py."""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """Exported with nothing else said, in a process without a network to speak of."""
    path = tmp_path_factory.mktemp("nano") / "bundle"
    command = [sys.executable, "-m", "etam_edge", "export", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert "etam_nano" in done.stdout
    assert "etam-edge export --model efficienttam_ti_512x512" in done.stdout
    return Tracker.load(path)


def below(found: dict[str, float]) -> list[str]:
    return [name for name, floor in FLOORS.items() if found[name] < floor]


def test_it_tracks(tracker: Tracker) -> None:
    found = similarities(tracker)
    assert not below(found), found


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever written to the bank."""
    monkeypatch.setattr(Workspace, "store", lambda *_: None)
    monkeypatch.setattr(Workspace, "store_unpooled", lambda *_: None)


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first entry is ever stored: memory never moves on."""
    store, stored = Workspace.store, set()

    def once(workspace: Workspace, row: int, placement: Any) -> None:
        if (id(workspace), row) not in stored:
            stored.add((id(workspace), row))
            store(workspace, row, placement)

    monkeypatch.setattr(Workspace, "store", once)


@pytest.mark.parametrize("damage", [forget, freeze])
def test_a_broken_memory_is_noticed(
    damage: Callable[[pytest.MonkeyPatch], None], tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch)
    found = similarities(tracker)
    assert below(found), f"every object was held all the same: {found}"
