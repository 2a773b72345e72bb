"""The prompts of a run, kept as the entries of the file that `etam-edge track --prompts` reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan
from etam_edge.runtimes.types import Prompt

MAX_CORRECTIONS = 1000
"""Corrections of an object that are kept: one more replaces the oldest, so that memory stays bounded."""


class PromptLog:
    """Prompts of the objects that are tracked. May be read by another thread.

    Args:
        plan: that the run began with. A mask is kept as the path of its file; an object that began with a mask of no
            file is left out.
    """

    def __init__(self, plan: PromptPlan) -> None:
        self._lock = threading.Lock()
        self._files = _mask_files(plan)
        unknown = {one.object_id for one in plan.planned if one.prompt.mask is not None and one not in self._files}
        self._entries = [one for one in plan.planned if one.object_id not in unknown]

    def add(self, frame: int, object_id: int, prompt: Prompt, refine: bool) -> None:
        """
        Args:
            frame: its index in the source.
            object_id: of the object.
            prompt: points or a box.
            refine: whether it corrects the object.
        """
        with self._lock:
            own = [one for one in self._entries if one.object_id == object_id]
            if refine and not own:
                return
            corrections = [one for one in own if one.refine]
            if refine and len(corrections) == MAX_CORRECTIONS:
                self._entries.remove(corrections[0])
            self._entries.append(PlannedPrompt(frame, object_id, prompt, "the page", refine))

    def remove(self, object_ids: Iterable[int]) -> None:
        """Forget objects."""
        gone = set(object_ids)
        with self._lock:
            self._entries = [one for one in self._entries if one.object_id not in gone]

    def to_json(self, labels: Mapping[int, str]) -> str:
        """The text of the file, one entry a line, in the order of frames.

        Args:
            labels: names of objects, by id.
        """
        with self._lock:
            planned = sorted(self._entries, key=lambda one: one.frame)
        entries = [self._entry(one) for one in planned]
        for entry in entries:
            if entry["object"] in labels:
                entry["label"] = labels[entry["object"]]
        lines = ",\n  ".join(map(json.dumps, entries))
        return f"[\n  {lines}\n]\n" if lines else "[]\n"

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def _entry(self, planned: PlannedPrompt) -> dict[str, Any]:
        entry: dict[str, Any] = {"frame": planned.frame, "object": planned.object_id}
        prompt = planned.prompt
        if planned in self._files:
            entry["mask"] = str(self._files[planned])
        if prompt.points is not None:
            entry["points"] = [[_short(x), _short(y)] for x, y in np.asarray(prompt.points)]
            entry["labels"] = [int(label) for label in np.asarray(prompt.labels)]
        if prompt.box is not None:
            entry["box"] = [_short(side) for side in np.asarray(prompt.box)]
        if planned.refine:
            entry["refine"] = True
        return entry


def _mask_files(plan: PromptPlan) -> dict[PlannedPrompt, Path]:
    """The image file of every mask in a plan, as far as it is known: one for all, or one for each in order."""
    masks = [one for one in plan.planned if one.prompt.mask is not None]
    files = [file.absolute() for file in plan.files if file.suffix.lower() != ".json"]
    if len(files) == 1:
        files *= len(masks)
    return dict(zip(masks, files, strict=True)) if len(files) == len(masks) else {}


def _short(value: float) -> float:
    """A coordinate to a tenth of a pixel, a whole number as an int."""
    # Rounding must not lead out of the frame, so it is downwards.
    rounded = int(float(value) * 10) / 10
    return int(rounded) if rounded.is_integer() else rounded
