"""End to end with trained weights: real and drawn frames, ground truth, and what a broken memory would do to them.

The floors are the figures of the packaged weights (etam_edge/weights/MODEL_CARD.md) less a margin for other processors.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etam_edge import Prompt, Tracker
from etam_edge.evaluation.metrics import region_similarity
from etam_edge.media import chair_masks, crossing
from etam_edge.runtimes.workspace import Workspace

pytest.importorskip("torch")

CHAIR = Path(__file__).parent / "data" / "chair" / "JPEGImages"
FLOORS = {"ball": 0.75, "box": 0.45, "reflection": 0.28}
"""Mean J of the tracked frames on which the object is visible."""


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


def similarities(tracker: Tracker) -> dict[str, float]:
    """Mean J by object, on the drawn clip and on every second frame of the real one."""
    images, truth = crossing()
    frames = [np.asarray(Image.open(file)) for file in sorted(CHAIR.iterdir())][::2]
    found = {}
    for names, clip, masks in (
        (("ball", "box"), images, truth),
        (("reflection",), frames, chair_masks()[::2, None]),
    ):
        session = tracker.start_session(max_objects=len(names))
        values: dict[str, list[float]] = {name: [] for name in names}
        for index, (frame, wanted) in enumerate(zip(clip, masks, strict=True)):
            prompts = {number: Prompt(mask=mask) for number, mask in enumerate(wanted, 1)} if index == 0 else {}
            result = session.track(frame, prompts=prompts)
            for name, mask, true_mask in zip(names, result.masks, wanted, strict=True):
                if index and true_mask.sum() > 50:
                    values[name].append(float(region_similarity(mask, true_mask)))
        found |= {name: float(np.mean(each)) for name, each in values.items()}
    return found


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
