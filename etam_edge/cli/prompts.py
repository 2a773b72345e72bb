"""Prompts on the command line and in files, as a plan of what is said on which frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from etam_edge.errors import InputError
from etam_edge.runtimes.types import Prompt

KEYS = {"frame", "object", "points", "labels", "box", "mask", "refine"}
EXAMPLE = '[{"frame": 0, "object": 1, "points": [[420, 260]], "labels": [1]}]'
HOW = "--point X,Y, --box X0,Y0,X1,Y1, --mask FILE or --prompts FILE.json"


@dataclass(frozen=True, eq=False)
class PlannedPrompt:
    """One prompt: `refine` corrects the object on a frame that has just been tracked."""

    frame: int
    object_id: int
    prompt: Prompt
    refine: bool = False


class PromptPlan:
    """All prompts of a run, at least one."""

    def __init__(self, prompts: Sequence[PlannedPrompt]) -> None:
        self._prompts = list(prompts)
        self.object_ids = sorted({planned.object_id for planned in prompts})
        self.last_frame = max(planned.frame for planned in prompts)

    def prompts(self, frame: int) -> dict[int, Prompt]:
        """What is given with a frame, by object id."""
        return {p.object_id: p.prompt for p in self._prompts if p.frame == frame and not p.refine}

    def corrections(self, frame: int) -> list[tuple[int, Prompt]]:
        """What is said once the frame is tracked, in the file's order."""
        return [(p.object_id, p.prompt) for p in self._prompts if p.frame == frame and p.refine]


def plan_prompts(
    points: Sequence[str], negative_points: Sequence[str], box: str | None, mask: Path | None, file: Path | None
) -> PromptPlan:
    """The plan of the command line's options; all but a file's prompts are about object 1 on the first frame.

    Raises:
        InputError: nothing was prompted, options contradict each other, or one of them is not usable.
    """
    if file is not None:
        if points or negative_points or box or mask:
            raise InputError(
                "--prompts cannot be mixed with --point, --negative-point, --box or --mask; put all in the file"
            )
        return PromptPlan(_from_file(file))
    if mask is not None:
        if points or negative_points or box:
            raise InputError("--mask cannot be mixed with --point, --negative-point or --box; give one of them")
        return PromptPlan(
            [PlannedPrompt(0, object_id, Prompt(mask=one)) for object_id, one in read_masks(mask).items()]
        )
    if not (points or box):
        extra = "--negative-point says where the object is not; " if negative_points else ""
        raise InputError(f"{extra}no object was prompted; add {HOW}")
    clicks = [_numbers(text, 2, "--point") for text in points]
    clicks += [_numbers(text, 2, "--negative-point") for text in negative_points]
    prompt = Prompt(
        points=clicks or None,
        labels=[1] * len(points) + [0] * len(negative_points) if clicks else None,
        box=_numbers(box, 4, "--box") if box else None,
    )
    return PromptPlan([PlannedPrompt(0, 1, prompt)])


def read_masks(file: Path) -> dict[int, np.ndarray]:
    """The masks in an image, bool (H, W) by object id.

    A palette or grey image of several values other than 0 (a DAVIS annotation) has one object for each; any other image
    has object 1 where it is not black.

    Raises:
        InputError: the file is no image, or marks nothing.
    """
    try:
        with Image.open(file) as image:
            # A palette's numbers are the objects; of other images only black matters.
            values = np.asarray(image if image.mode in ("P", "L", "1") else image.convert("L"))
    except FileNotFoundError:
        raise InputError(f"there is no mask at {file}; check the path") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{file} is no mask image ({error}); give a PNG whose object is not black") from error
    found = [int(value) for value in np.unique(values) if value]
    if not found:
        raise InputError(f"mask {file} is empty: all of it is black; mark the object with another value")
    if len(found) == 1:
        return {1: values > 0}
    return {value: values == value for value in found}


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        form = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise InputError(
            f"{option} {text} is not of the form {form}; give pixels of the frame, for example {option} "
            f"{'420,260' if count == 2 else '100,80,420,260'}"
        )
    return numbers


def _from_file(file: Path) -> list[PlannedPrompt]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no prompts file at {file}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a JSON file") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); write it as {EXAMPLE}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file} holds no list of prompts; write it as {EXAMPLE}")
    planned = [
        one for number, entry in enumerate(entries) for one in _entry(entry, f"{file}, entry {number}", file.parent)
    ]
    seen = set()
    for one in planned:
        key = (one.frame, one.object_id)
        if not one.refine and key in seen:
            raise InputError(
                f"{file} prompts object {one.object_id} twice on frame {one.frame}; put all points into one entry, "
                'or correct it with "refine": true'
            )
        seen.add(key)
    first: dict[int, int] = {}
    for one in planned:
        if not one.refine:
            first[one.object_id] = min(one.frame, first.get(one.object_id, one.frame))
    for one in planned:
        if one.refine and one.frame < first.get(one.object_id, one.frame + 1):
            raise InputError(
                f"{file} corrects object {one.object_id} on frame {one.frame} before it is prompted; "
                'give it an earlier entry without "refine"'
            )
    return planned


def _entry(entry: Any, where: str, folder: Path) -> list[PlannedPrompt]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no object; write it as {EXAMPLE[1:-1]}")
    unknown = sorted(set(entry) - KEYS)
    if unknown:
        raise InputError(f"{where} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(KEYS))}")
    frame = entry.get("frame", 0)
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
        raise InputError(f"{where}: frame is {frame!r}; give a whole number from 0")
    object_id = entry.get("object", 1)
    if isinstance(object_id, bool) or not isinstance(object_id, int) or object_id < 1:
        raise InputError(f"{where}: object is {object_id!r}; give a whole number from 1")
    refine = entry.get("refine", False)
    if not isinstance(refine, bool):
        raise InputError(f"{where}: refine is {refine!r}; give true or false")
    given = {name: entry[name] for name in ("points", "labels", "box", "mask") if entry.get(name) is not None}
    if not given:
        raise InputError(f"{where} prompts nothing; give points with labels, a box or a mask")
    if "mask" in given:
        if not isinstance(given["mask"], str):
            raise InputError(f"{where}: mask is {given['mask']!r}; give the name of an image file")
        masks = read_masks(folder / given["mask"])
        if len(masks) > 1 and object_id not in masks:
            raise InputError(
                f"{where}: {given['mask']} marks objects {', '.join(map(str, masks))} and not {object_id}; "
                "name one of them"
            )
        given["mask"] = masks[object_id] if len(masks) > 1 else masks[1]
    return [PlannedPrompt(frame, object_id, Prompt(**given), refine)]
