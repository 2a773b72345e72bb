"""Prompts on the command line and in files, as a plan of what is said on which frame."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.sources import UNREADABLE_IMAGE
from etam_edge.runtimes.prompts import prepare
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import GraphSizes, ModelSpec

KEYS = {"frame", "object", "points", "labels", "box", "mask", "refine"}
EXAMPLE = '[{"frame": 0, "object": 1, "points": [[420, 260]], "labels": [1]}]'
MAX_OBJECTS = 64
"""Values of a mask image that are taken for objects; more of them are an object's soft edge."""
MAX_PIXELS = 1e9
"""Coordinates are below this; NaN and infinity are not."""
HOW = "--point X,Y, --box X0,Y0,X1,Y1, --mask FILE or --prompts FILE.json"


@dataclass(frozen=True, eq=False)
class PlannedPrompt:
    """One prompt.

    Attributes:
        frame: index of the frame that it is about.
        object_id: whom it is about.
        prompt: what it says.
        where: the option, or the file and entry, that it comes from.
        refine: whether it corrects the object on the frame that has just been tracked.
    """

    frame: int
    object_id: int
    prompt: Prompt
    where: str
    refine: bool = False


class PromptPlan:
    """All prompts of a run, at least one, and the files that they were read from."""

    def __init__(self, prompts: Sequence[PlannedPrompt], files: Sequence[Path] = ()) -> None:
        self._prompts = list(prompts)
        self.files = list(files)
        self.object_ids = sorted({planned.object_id for planned in prompts})
        self._last = max(prompts, key=lambda planned: planned.frame)
        self.last_frame = self._last.frame

    @property
    def planned(self) -> tuple[PlannedPrompt, ...]:
        """All prompts, in the order in which they were given."""
        return tuple(self._prompts)

    def check_frames(self, count: int) -> None:
        """
        Raises:
            InputError: a prompt is for a frame beyond the first `count`.
        """
        if self.last_frame >= count:
            raise InputError(
                f"{self._last.where}: a prompt is for frame {self.last_frame}, and frames run from 0 to {count - 1}; "
                "give an earlier frame"
            )

    def check_prompts(self, frame_shape: tuple[int, int], spec: ModelSpec, sizes: GraphSizes) -> None:
        """Find now what a session would refuse when it comes to the frame.

        Raises:
            InputError: a prompt does not fit frames of this (H, W), or this bundle.
        """
        for planned in self._prompts:
            try:
                prepare(planned.prompt, planned.object_id, frame_shape, spec, sizes)
            except InputError as error:
                raise InputError(f"{planned.where}: {error}") from error

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
        if points or negative_points or box is not None or mask is not None:
            raise InputError(
                "--prompts cannot be mixed with --point, --negative-point, --box or --mask; put all in the file"
            )
        return plan_file(file)
    if mask is not None:
        if points or negative_points or box is not None:
            raise InputError("--mask cannot be mixed with --point, --negative-point or --box; give one of them")
        objects = read_masks(mask)
        planned = [PlannedPrompt(0, number, Prompt(mask=one), f"--mask {mask}") for number, one in objects.items()]
        return PromptPlan(planned, [mask])
    if not points and box is None:
        extra = "--negative-point says where the object is not; " if negative_points else ""
        raise InputError(f"{extra}no object was prompted; add {HOW}")
    clicks = [_numbers(text, 2, "--point") for text in points]
    clicks += [_numbers(text, 2, "--negative-point") for text in negative_points]
    prompt = Prompt(
        points=clicks or None,
        labels=[1] * len(points) + [0] * len(negative_points) if clicks else None,
        box=_numbers(box, 4, "--box") if box is not None else None,
    )
    given = (("--point", points), ("--negative-point", negative_points), ("--box", [box] if box is not None else []))
    where = " ".join(f"{option} {text}" for option, texts in given for text in texts)
    return PromptPlan([PlannedPrompt(0, 1, prompt, where)])


def read_masks(file: Path) -> dict[int, np.ndarray]:
    """The masks in an image, bool (H, W) by object id.

    A palette or grey image of several values other than 0 (a DAVIS annotation) has one object for each; any other image
    has object 1 where it is neither black nor transparent.

    Raises:
        InputError: the file is no image, or marks nothing, or has soft edges.
    """
    try:
        with Image.open(file) as image:
            values, lossy = _mask_values(image), image.format == "JPEG"
    except FileNotFoundError:
        raise InputError(f"there is no mask at {file}; check the path") from None
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{file} is no mask image ({error}); give a PNG whose object is not black") from error
    found = [int(value) for value in np.unique(values) if value]
    if not found:
        raise InputError(f"mask {file} is empty: all of it is black; mark the object with another value")
    if len(found) == 1:
        return {1: values > 0}
    if lossy or len(found) > MAX_OBJECTS:
        raise InputError(
            f"mask {file} has {len(found)} values beside black, which is no number of objects but the blur of JPEG or "
            "of soft edges; save it as a PNG of hard edges"
        )
    return {value: values == value for value in found}


def _mask_values(image: Image.Image) -> np.ndarray:
    """(H, W), 0 off the objects: the values of a palette or grey image; of others 1 where any colour is."""
    if image.mode in ("P", "L", "1"):
        return np.asarray(image)
    if image.mode.startswith(("I", "F")):
        return (np.asarray(image) != 0).astype(np.uint8)
    values = np.asarray(image.convert("RGBA"))
    return (values[..., :3].any(axis=-1) & (values[..., 3] > 0)).astype(np.uint8)


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        form = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise InputError(
            f"{option} {text} is not of the form {form}; give pixels of the frame, for example {option} "
            f"{'420,260' if count == 2 else '100,80,420,260'}"
        )
    return numbers


def plan_file(file: Path) -> PromptPlan:
    """The plan that a JSON file holds.

    Raises:
        InputError: the file is missing, damaged, or one of its entries is not usable.
    """
    try:
        # Some editors put a byte order mark first.
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"there is no prompts file at {file}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); write it as {EXAMPLE}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file} holds no list of prompts; write it as {EXAMPLE}")
    planned = [_entry(entry, f"{file}, entry {number}", file.parent) for number, entry in enumerate(entries)]
    _check_order(planned)
    masks = [file.parent / entry["mask"] for entry in entries if entry.get("mask") is not None]
    return PromptPlan(planned, [file, *masks])


def _check_order(planned: Sequence[PlannedPrompt]) -> None:
    """
    Raises:
        InputError: an object is prompted twice on a frame, or corrected before it is prompted.
    """
    first: dict[int, int] = {}
    seen = set()
    for one in planned:
        if one.refine:
            continue
        if (one.frame, one.object_id) in seen:
            raise InputError(
                f"{one.where} prompts object {one.object_id} twice on frame {one.frame}; put all points into one "
                'entry, or correct it with "refine": true'
            )
        seen.add((one.frame, one.object_id))
        first[one.object_id] = min(one.frame, first.get(one.object_id, one.frame))
    for one in planned:
        if one.refine and one.frame < first.get(one.object_id, one.frame + 1):
            raise InputError(
                f"{one.where} corrects object {one.object_id} on frame {one.frame} before it is prompted; "
                'give it an earlier entry without "refine"'
            )


def _entry(entry: Any, where: str, folder: Path) -> PlannedPrompt:
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
    _check_types(given, where)
    if "mask" in given:
        given["mask"] = _entry_mask(folder / given["mask"], object_id, where)
    return PlannedPrompt(frame, object_id, Prompt(**given), where, refine)


def _entry_mask(file: Path, object_id: int, where: str) -> np.ndarray:
    """bool (H, W): the object's own value where the image has several, else all that it marks."""
    try:
        masks = read_masks(file)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if len(masks) == 1:
        return masks[1]
    if object_id not in masks:
        raise InputError(
            f"{where}: {file} marks objects {', '.join(map(str, masks))} and not {object_id}; name one of them"
        )
    return masks[object_id]


def _check_types(given: dict[str, Any], where: str) -> None:
    """
    Raises:
        InputError: a value is not of the kind that its key wants. What it must be to fit the frame is checked later.
    """
    points, labels, box = given.get("points", []), given.get("labels", []), given.get("box", [0, 0, 0, 0])
    if not isinstance(points, list) or not all(_is_numbers(point, 2) for point in points):
        raise InputError(f"{where}: points are {points!r:.60}; give a list of [x, y] in pixels")
    if not isinstance(labels, list) or not all(type(label) is int and label in (0, 1) for label in labels):
        raise InputError(f"{where}: labels are {labels!r:.60}; give a list of 1 (on the object) and 0 (off it)")
    if not _is_numbers(box, 4):
        raise InputError(f"{where}: box is {box!r:.60}; give [x0, y0, x1, y1] in pixels")
    if not isinstance(given.get("mask", ""), str):
        raise InputError(f"{where}: mask is {given['mask']!r:.60}; give the name of an image file")


def _is_numbers(value: Any, count: int) -> bool:
    """Whether it is a list of this many finite numbers."""
    if not isinstance(value, list) or len(value) != count:
        return False
    # Neither true nor 10 ** 400 is a coordinate.
    return all(type(number) in (int, float) and abs(number) < MAX_PIXELS for number in value)
