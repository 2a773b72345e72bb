"""Clips with prompts, and with ground truth where there are any: what models are calibrated on and checked against.

Three forms are read:

- DAVIS layout, `JPEGImages[/480p]/NAME/*.jpg` with `Annotations[/480p]/NAME/*.png`: every object is prompted with its
  mask on the first frame that shows it, as in the semi-supervised DAVIS protocol;
- a folder of videos or image folders, each NAME with its prompts in `NAME.json`, and ground truth, where there are any,
  as the PNG files of `NAME_masks`;
- one video or image folder with its prompts file, and `NAME_masks` beside it in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.prompt_files import PlannedPrompt, PromptPlan, plan_file
from etam_edge.media.sources import IMAGE_SUFFIXES, UNREADABLE_IMAGE, FrameSource, ImageFolder, open_source
from etam_edge.runtimes.types import Prompt

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
VOID = 255
"""Value of an annotation's pixels that do not count, where other values are objects."""
LAYOUTS = (
    "DAVIS layout (JPEGImages/NAME and Annotations/NAME), a folder of videos or image folders with NAME.json beside "
    "each, or one of them with --prompts FILE.json"
)


@dataclass(frozen=True, eq=False)
class TrueMasks:
    """What is true on one frame.

    Attributes:
        objects: bool (H, W) by object id; an object that is not there is all false.
        void: bool (H, W), pixels that do not count, or None where all do.
    """

    objects: dict[int, np.ndarray]
    void: np.ndarray | None


class Annotations:
    """Ground-truth masks of a clip, as PNG files: one for a frame, some frames may have none.

    Args:
        files: by frame index.
        values: an object's pixel value by object id.
    """

    def __init__(self, files: dict[int, Path], values: dict[int, int]) -> None:
        self._files = files
        self.values = values

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that have ground-truth masks."""
        return sorted(self._files)

    def at(self, index: int, frame_shape: tuple[int, int]) -> TrueMasks | None:
        """The ground-truth masks of a frame, or None where it has none.

        Raises:
            InputError: the file is damaged or of another size than the frame.
        """
        if index not in self._files:
            return None
        labels = _labels(self._files[index])
        if labels.shape != frame_shape:
            raise InputError(
                f"{self._files[index]} is {labels.shape[1]} x {labels.shape[0]} pixels and its frame is "
                f"{frame_shape[1]} x {frame_shape[0]}; take frames and annotations of one resolution"
            )
        has_void = VOID not in self.values.values()
        void = labels == VOID if has_void and (labels == VOID).any() else None
        return TrueMasks({number: labels == value for number, value in self.values.items()}, void)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames, what is said about them, and what is true of them.

    Attributes:
        name: unique in its set.
        frames: in order.
        plan: at least one prompt.
        truth: ground-truth masks, or None.
    """

    name: str
    frames: FrameSource
    plan: PromptPlan
    truth: Annotations | None

    @property
    def length(self) -> int:
        """How many frames there are. May decode a whole video."""
        count = self.frames.count()
        assert count is not None, "a clip is read from files"
        return count


def find_clips(path: Path, prompts: Path | None = None) -> list[Clip]:
    """The clips at a path, in the order of their names.

    Raises:
        InputError: there is no clip, or one of them has no prompt, or cannot be read.
        RuntimeUnavailableError: OpenCV is needed for a video and not installed.
    """
    if not path.exists():
        raise InputError(f"there are no clips at {path}; give {LAYOUTS}")
    if prompts is not None:
        return [_clip(path, prompts)]
    if path.is_dir() and (path / "JPEGImages").is_dir():
        return list(_davis_clips(path))
    found = [
        entry
        for entry in (sorted(path.iterdir()) if path.is_dir() else [])
        if not entry.name.startswith(".")
        and (entry.suffix.lower() in VIDEO_SUFFIXES or (entry.is_dir() and not _is_masks(entry)))
    ]
    if path.is_file() or (not found and _holds_images(path)):
        raise InputError(f"{path} is one clip; say what to track in it with --prompts FILE.json")
    if not found:
        raise InputError(f"{path} holds no clips; give {LAYOUTS}")
    names = [entry.stem for entry in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} holds several clips named {twice}; rename one of them")
    return [_clip(entry, entry.with_name(f"{entry.stem}.json")) for entry in found]


def _clip(source: Path, prompts: Path) -> Clip:
    """A video or image folder with a prompts file, and `NAME_masks` beside it where that is there."""
    if not prompts.is_file():
        raise InputError(
            f"clip {source} has no prompts: there is no {prompts}; write one, or name it with --prompts (one clip only)"
        )
    frames = open_source(str(source))
    plan = plan_file(prompts)
    masks = source.with_name(f"{source.stem}_masks")
    truth = None
    if masks.is_dir():
        files = sorted(file for file in masks.iterdir() if file.suffix.lower() == ".png")
        count = frames.count()
        if len(files) != count:
            raise InputError(f"{masks} holds {len(files)} masks for {count} frames; give one for each frame")
        truth = Annotations(dict(enumerate(files)), _values(files, plan.object_ids, masks))
    return Clip(source.stem, frames, plan, truth)


def _values(files: list[Path], object_ids: list[int], masks: Path) -> dict[int, int]:
    """A value for every object: its id, or the only value there is."""
    found: set[int] = set()
    for file in files:
        found |= set(np.unique(_labels(file)).tolist())
    found.discard(0)
    if len(found) == 1 and len(object_ids) == 1:
        return {object_ids[0]: found.pop()}
    known = {number: number for number in object_ids if number in found}
    if not known:
        raise InputError(
            f"{masks} marks {', '.join(map(str, sorted(found))) or 'nothing'} and the prompts are about "
            f"{', '.join(map(str, object_ids))}; write each object's id as the value of its pixels"
        )
    return known


def _davis_clips(root: Path) -> Iterator[Clip]:
    images = _resolution(root / "JPEGImages")
    annotations = root / "Annotations" / images.relative_to(root / "JPEGImages")
    folders = [folder for folder in sorted(images.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if not folders:
        raise InputError(f"{images} holds no clips; it needs a folder of images for each")
    for folder in folders:
        masks = annotations / folder.name
        if not masks.is_dir():
            raise InputError(f"clip {folder} has no annotations: there is no {masks}; add it, or take the clip out")
        frames = ImageFolder(folder)
        indices = {file.stem: index for index, file in enumerate(frames.files)}
        files = {indices[file.stem]: file for file in sorted(masks.glob("*.png")) if file.stem in indices}
        plan, values = _first_sights(files, masks)
        # With nothing but the masks that are given as prompts there is nothing to compare with.
        prompted = {planned.frame for planned in plan}
        truth = Annotations(files, values) if set(files) - prompted else None
        yield Clip(folder.name, frames, PromptPlan(plan, list(files.values())), truth)


def _resolution(images: Path) -> Path:
    """The folder whose folders hold images: `JPEGImages`, or its only resolution, or its 480p."""
    below = [folder for folder in sorted(images.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if not below or any(_holds_images(folder) for folder in below):
        return images
    if len(below) == 1:
        return below[0]
    if images / "480p" in below:
        return images / "480p"
    raise InputError(
        f"{images} holds several resolutions ({', '.join(folder.name for folder in below)}); keep one of them"
    )


def _first_sights(files: dict[int, Path], masks: Path) -> tuple[list[PlannedPrompt], dict[int, int]]:
    """Every object's mask on the first frame that shows it, and its pixel value by object id."""
    first: dict[int, tuple[int, np.ndarray]] = {}
    for index, file in sorted(files.items()):
        labels = _labels(file)
        for value in np.unique(labels[labels > 0]).tolist():
            first.setdefault(value, (index, labels == value))
    if len(first) > 1:
        first.pop(VOID, None)
    if not first:
        raise InputError(f"{masks} marks no object; give annotations whose objects are not black")
    # One object may have any value (DAVIS 2016 writes 255); of several, the value is the id.
    numbers = {value: value if len(first) > 1 else 1 for value in first}
    planned = [
        PlannedPrompt(index, numbers[value], Prompt(mask=mask), str(files[index]))
        for value, (index, mask) in first.items()
    ]
    return planned, {number: value for value, number in numbers.items()}


def _labels(file: Path) -> np.ndarray:
    """uint8 (H, W): an annotation's pixel values.

    Raises:
        InputError: the file is damaged, or no palette or grey image.
    """
    try:
        with Image.open(file) as image:
            mode, labels = image.mode, np.asarray(image).astype(np.uint8)
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{file} is no annotation that can be read ({error}); save it again") from error
    if mode not in ("P", "L", "1"):
        raise InputError(f"{file} has mode {mode}; annotations are palette or grey PNG images")
    return labels


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())


def _is_masks(folder: Path) -> bool:
    """Whether it holds the ground-truth masks of another clip in the same folder."""
    return folder.name.endswith("_masks") and any(
        entry.stem == folder.name.removesuffix("_masks") and entry != folder for entry in folder.parent.iterdir()
    )
