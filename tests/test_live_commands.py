"""Messages of the page, and the prompts that a run can save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etam_edge.errors import InputError
from etam_edge.live.commands import (
    Acknowledge,
    AddPrompt,
    Finish,
    Freeze,
    Play,
    Remove,
    Reset,
    SetLabel,
    Step,
    parse_message,
)
from etam_edge.live.prompt_log import MAX_CORRECTIONS, PromptLog
from etam_edge.media.prompt_files import plan_file, plan_prompts
from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan
from etam_edge.runtimes.types import Prompt


def test_messages_become_commands() -> None:
    cases: list[tuple[dict[str, Any], object]] = [
        ({"type": "ack", "snapshot": 7}, Acknowledge(7)),
        ({"type": "freeze", "on": True}, Freeze(True)),
        ({"type": "play", "on": False}, Play(False)),
        ({"type": "remove", "object": 2}, Remove(2)),
        ({"type": "label", "object": 2, "label": " cup "}, SetLabel(2, "cup")),
        ({"type": "reset"}, Reset()),
        ({"type": "step"}, Step()),
        ({"type": "finish"}, Finish()),
    ]
    for message, command in cases:
        assert parse_message(json.dumps(message)) == command
    click = parse_message('{"type": "prompt", "snapshot": 3, "object": null, "points": [[1.5, 2]], "labels": [1]}')
    assert isinstance(click, AddPrompt)
    assert (click.snapshot, click.object_id, click.prompt.points, click.prompt.labels) == (3, None, [[1.5, 2]], [1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"type": "nonsense"}',
        '{"type": ["ack"]}',
        '{"type": "ack"}',
        '{"type": "ack", "snapshot": true}',
        '{"type": "ack", "snapshot": -1}',
        '{"type": "ack", "snapshot": 1e400}',
        '{"type": "freeze", "on": 1}',
        '{"type": "label", "object": 1, "label": 5}',
        '{"type": "label", "object": 1, "label": "a\\u0000b"}',
        f'{{"type": "label", "object": 1, "label": "{"x" * 65}"}}',
        '{"type": "prompt", "snapshot": 1, "points": "here", "labels": [1]}',
        '{"type": "prompt", "snapshot": 1, "points": [[1, NaN]], "labels": [1]}',
        '{"type": "prompt", "snapshot": 1, "points": [[1, 2, 3]], "labels": [1]}',
        '{"type": "prompt", "snapshot": 1, "points": [[1, 2]], "labels": ["1"]}',
        '{"type": "prompt", "snapshot": 1, "box": [1, 2, 3]}',
        "[" * 100_000,
    ],
)
def test_other_messages_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"; (reload the page|choose another)$"):
        parse_message(text)


def read_back(text: str, folder: Path) -> PromptPlan:
    file = folder / "prompts.json"
    file.write_text(text)
    return plan_file(file)


def test_saved_prompts_are_what_track_reads(tmp_path: Path) -> None:
    log = PromptLog(PromptPlan([]))
    log.add(4, 1, Prompt(points=[(10.26, 20)], labels=[1]), refine=False)
    log.add(9, 2, Prompt(box=(1, 2, 30.999, 40)), refine=False)
    log.add(6, 1, Prompt(points=[(5, 6)], labels=[0]), refine=True)
    log.add(7, 3, Prompt(points=[(1, 1)], labels=[1]), refine=False)
    log.remove([3])
    assert log.to_json({1: "cup"}) == (
        '[\n  {"frame": 4, "object": 1, "points": [[10.2, 20]], "labels": [1], "label": "cup"},\n'
        '  {"frame": 6, "object": 1, "points": [[5, 6]], "labels": [0], "refine": true, "label": "cup"},\n'
        '  {"frame": 9, "object": 2, "box": [1, 2, 30.9, 40]}\n]\n'
    )
    plan = read_back(log.to_json({1: "cup"}), tmp_path)
    assert [(one.frame, one.object_id, one.refine) for one in plan.planned] == [
        (4, 1, False),
        (6, 1, True),
        (9, 2, False),
    ]
    assert plan.labels == {1: "cup"}


def test_masks_are_saved_as_paths_of_their_files(tmp_path: Path) -> None:
    from PIL import Image

    values = np.zeros((8, 9), dtype=np.uint8)
    values[2:5, 3:6], values[6:, :2] = 1, 2
    Image.fromarray(values).save(tmp_path / "masks.png")
    log = PromptLog(plan_prompts([], [], None, tmp_path / "masks.png", None))
    log.add(3, 2, Prompt(points=[(1, 7)], labels=[1]), refine=True)
    plan = read_back(log.to_json({}), tmp_path)
    assert [one.object_id for one in plan.planned] == [1, 2, 2]
    np.testing.assert_array_equal(plan.planned[1].prompt.mask, values == 2)


def test_an_object_that_began_with_a_mask_of_no_file_is_left_out(tmp_path: Path) -> None:
    mask = np.ones((4, 4), dtype=bool)
    planned = [PlannedPrompt(0, 1, Prompt(mask=mask), "here"), PlannedPrompt(0, 2, Prompt(box=(0, 0, 2, 2)), "here")]
    log = PromptLog(PromptPlan(planned))
    log.add(1, 1, Prompt(points=[(1, 1)], labels=[0]), refine=True)
    assert [one.object_id for one in read_back(log.to_json({}), tmp_path).planned] == [2]


def test_corrections_are_bounded() -> None:
    log = PromptLog(PromptPlan([]))
    log.add(0, 1, Prompt(points=[(1, 1)], labels=[1]), refine=False)
    for frame in range(MAX_CORRECTIONS + 5):
        log.add(frame, 1, Prompt(points=[(1, 1)], labels=[1]), refine=True)
    assert len(log) == MAX_CORRECTIONS + 1
    assert json.loads(log.to_json({}))[0] == {"frame": 0, "object": 1, "points": [[1, 1]], "labels": [1]}


def test_an_empty_log_is_an_empty_list() -> None:
    assert PromptLog(PromptPlan([])).to_json({}) == "[]\n"
