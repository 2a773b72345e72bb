"""Prompts from files and from text: JSON files, mask images, and coordinates such as "420,260"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from etam_edge.errors import InputError, shown, why
from etam_edge.json_fields import is_text
from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan
from etam_edge.media.sources import load_image
from etam_edge.regular_files import MAX_NAME, read_json
from etam_edge.runtimes.prompts import MAX_ID
from etam_edge.runtimes.types import Prompt

KEYS = {"frame", "object", "points", "labels", "box", "mask", "refine", "label"}
EXAMPLE = '[{"frame": 0, "object": 1, "points": [[420, 260]], "labels": [1]}]'
MAX_OBJECTS = 64
"""Largest number of values in a mask image that are taken for objects; more are the soft edges of one object."""
MAX_LABEL = 64
"""Characters of an object's name."""
MAX_FRAME = 1 << 62
MAX_PIXELS = 1e9
"""Bound on coordinates; NaN and infinity exceed it, too."""
HOW = "`point=X,Y`, `box=X0,Y0,X1,Y1`, `mask=FILE` or `prompts=FILE.json`"


def plan_prompts(
    points: Sequence[str], negative_points: Sequence[str], box: str | None, mask: Path | None, file: Path | None
) -> PromptPlan:
    """The plan for prompts given as text and files. Points, box and mask are for the first frame.

    Args:
        points: "X,Y" in pixels, on object 1.
        negative_points: "X,Y" in pixels, off object 1.
        box: "X0,Y0,X1,Y1" in pixels, around object 1.
        mask: image as of `read_masks`.
        file: JSON file as of `plan_file`; excludes the others.

    Raises:
        InputError: nothing is prompted, the arguments exclude each other, or one of them cannot be used.
    """
    if file is not None:
        if points or negative_points or box is not None or mask is not None:
            raise InputError(
                "`prompts` cannot be mixed with `point`, `negative_point`, `box` or `mask`; put all in the file"
            )
        return plan_file(file)
    if mask is not None:
        if points or negative_points or box is not None:
            raise InputError("`mask` cannot be mixed with `point`, `negative_point` or `box`; give one of them")
        objects = read_masks(mask)
        planned = [PlannedPrompt(0, number, Prompt(mask=one), f"`mask={mask}`") for number, one in objects.items()]
        return PromptPlan(planned, [mask])
    if not points and box is None:
        extra = "`negative_point` says where the object is not; " if negative_points else ""
        raise InputError(f"{extra}no object was prompted; add {HOW}")
    clicks = [_numbers(text, 2, "point") for text in points]
    clicks += [_numbers(text, 2, "negative_point") for text in negative_points]
    prompt = Prompt(
        points=clicks or None,
        labels=[1] * len(points) + [0] * len(negative_points) if clicks else None,
        box=_numbers(box, 4, "box") if box is not None else None,
    )
    given = (("point", points), ("negative_point", negative_points), ("box", [box] if box is not None else []))
    where = " ".join(f"`{name}={text}`" for name, texts in given for text in texts)
    return PromptPlan([PlannedPrompt(0, 1, prompt, where)])


def read_masks(file: Path) -> dict[int, np.ndarray]:
    """The masks in an image file, bool (H, W) by object id.

    A palette or grey image with several values other than 0 (a DAVIS annotation, or a mask of `track`, also one of 16
    bits) holds one object for each value, which is its id. Any other image holds object 1, where it is neither black
    nor transparent.

    Raises:
        InputError: the file is not an image, marks nothing, or has soft edges.
    """
    try:
        image = load_image(file, "a mask image")
    except FileNotFoundError:
        raise InputError(f"there is no mask at {file}; check the path") from None
    values, lossy = _mask_values(image), image.format == "JPEG"
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
    """(H, W), 0 off the objects: the values of a palette or grey image; of other modes 1 where a pixel is coloured."""
    if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode == "F":
        return (np.asarray(image) != 0).astype(np.uint8)
    values = np.asarray(image.convert("RGBA"))
    return (values[..., :3].any(axis=-1) & (values[..., 3] > 0)).astype(np.uint8)


def _numbers(text: str, count: int, parameter: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        form = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise InputError(
            f"`{parameter}={text}` is not of the form {form}; give pixels of the frame, for example "
            f"`{parameter}={'420,260' if count == 2 else '100,80,420,260'}`"
        )
    return numbers


def plan_file(file: Path) -> PromptPlan:
    """The plan in a JSON file: a list of entries such as

        {"frame": 0, "object": 1, "points": [[420, 260]], "labels": [1]}

    with `box`, `mask` (path of an image, relative to the file) or `"refine": true`. By default, `frame` is 0 and
    `object` is 1. `"label"` is a name of the object, in one of its entries or in all.

    Raises:
        InputError: the file is missing or damaged, or one of its entries cannot be used.
    """
    try:
        # utf-8-sig accepts the byte order mark that some editors write.
        entries = read_json(file, "utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no prompts file at {file}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({why(error)}); give a JSON file") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({why(error)}); write it as {EXAMPLE}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file} holds no list of prompts; write it as {EXAMPLE}")
    planned = [_entry(entry, f"{file}, entry {number}", file.parent) for number, entry in enumerate(entries)]
    _check_order(planned)
    _check_labels(planned)
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


def _check_labels(planned: Sequence[PlannedPrompt]) -> None:
    """
    Raises:
        InputError: an object has two names.
    """
    names: dict[int, str] = {}
    for one in planned:
        if one.label is None:
            continue
        known = names.setdefault(one.object_id, one.label)
        if known != one.label:
            raise InputError(
                f"{one.where} names object {one.object_id} {one.label!r}, and an earlier entry {known!r}; give one name"
            )


def _entry(entry: Any, where: str, folder: Path) -> PlannedPrompt:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no object; write it as {EXAMPLE[1:-1]}")
    unknown = sorted(set(entry) - KEYS)
    if unknown:
        names = ", ".join(name if name.isidentifier() else shown(name) for name in unknown[:5])
        raise InputError(f"{where} has unknown keys {names}; known are {', '.join(sorted(KEYS))}")
    frame = entry.get("frame", 0)
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame <= MAX_FRAME:
        raise InputError(f"{where}: frame is {shown(frame)}; give a whole number from 0")
    object_id = entry.get("object", 1)
    if isinstance(object_id, bool) or not isinstance(object_id, int) or not 1 <= object_id <= MAX_ID:
        raise InputError(f"{where}: object is {shown(object_id)}; give a whole number from 1")
    refine = entry.get("refine", False)
    if not isinstance(refine, bool):
        raise InputError(f"{where}: refine is {refine!r}; give true or false")
    label = entry.get("label")
    if label is not None and not (isinstance(label, str) and 0 < len(label) <= MAX_LABEL and label.isprintable()):
        raise InputError(
            f"{where}: label is {label!r:.80}; give the object's name as text of 1 to {MAX_LABEL} printable characters "
            '(labels of points are under "labels")'
        )
    given = {name: entry[name] for name in ("points", "labels", "box", "mask") if entry.get(name) is not None}
    if not given:
        raise InputError(f"{where} prompts nothing; give points with labels, a box or a mask")
    _check_types(given, where)
    if "mask" in given:
        given["mask"] = _entry_mask(folder / given["mask"], object_id, where)
    return PlannedPrompt(frame, object_id, Prompt(**given), where, refine, label)


def _entry_mask(file: Path, object_id: int, where: str) -> np.ndarray:
    """bool (H, W): the pixels of the object's id where the image holds several objects, else all marked pixels."""
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
        InputError: a value has the wrong type for its key. Whether it fits the frame is checked later.
    """
    points, labels, box = given.get("points", []), given.get("labels", []), given.get("box", [0, 0, 0, 0])
    if not isinstance(points, list) or not all(_is_numbers(point, 2) for point in points):
        raise InputError(f"{where}: points are {shown(points)}; give a list of [x, y] in pixels")
    if not isinstance(labels, list) or not all(type(label) is int and label in (0, 1) for label in labels):
        raise InputError(f"{where}: labels are {shown(labels)}; give a list of 1 (on the object) and 0 (off it)")
    if not _is_numbers(box, 4):
        raise InputError(f"{where}: box is {shown(box)}; give [x0, y0, x1, y1] in pixels")
    mask = given.get("mask", "")
    if not isinstance(mask, str) or not is_text(mask) or len(mask) > MAX_NAME:
        raise InputError(f"{where}: mask is {shown(mask)}; give the name of an image file")


def _is_numbers(value: Any, count: int) -> bool:
    """Whether a value is a list of `count` finite numbers."""
    if not isinstance(value, list) or len(value) != count:
        return False
    # Excludes true, which is an int in Python, and integers that no float can hold.
    return all(type(number) in (int, float) and abs(number) < MAX_PIXELS for number in value)
