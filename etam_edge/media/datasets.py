"""Data sets of clips with prompts and optional ground-truth masks, for calibration and for accuracy checks.

Three layouts are read:

- DAVIS: `JPEGImages[/480p]/NAME/*.jpg` with `Annotations[/480p]/NAME/*.png`. Each object is prompted with its mask on
  the first frame that shows it, as in DAVIS' semi-supervised protocol.
- A folder of videos or image folders. Each clip NAME has its prompts in `NAME.json` and, optionally, ground-truth masks
  in `NAME_masks/*.png`, one for each frame.
- One video or image folder with a prompts file, and optionally `NAME_masks` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.prompt_files import plan_file
from etam_edge.media.prompt_plan import PlannedPrompt, PromptPlan
from etam_edge.media.sources import IMAGE_SUFFIXES, FrameSource, ImageFolder, load_image, open_source
from etam_edge.runtimes.types import Prompt

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
VOID = 255
"""Pixel value of an annotation's void region, which is excluded from measures, unless it is an object's value."""
LAYOUTS = (
    "DAVIS layout (JPEGImages/NAME and Annotations/NAME), a folder of videos or image folders with NAME.json beside "
    "each, or one of them with `prompts=FILE.json`"
)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Ground-truth masks of one frame.

    Attributes:
        objects: bool (H, W) by object id; all false for an object that is not visible.
        void: bool (H, W), true for pixels that are excluded from measures, or None where none are.
    """

    objects: dict[int, np.ndarray]
    void: np.ndarray | None


class Annotations:
    """Ground-truth masks of a clip: one PNG file per frame, of which some may be missing.

    Args:
        files: by frame index.
        values: pixel value of each object, by object id.
    """

    def __init__(self, files: dict[int, Path], values: dict[int, int]) -> None:
        self._files = files
        self.values = values

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that have ground-truth masks."""
        return sorted(self._files)

    def at(self, index: int, frame_shape: tuple[int, int]) -> GroundTruth | None:
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
        has_void = labels.dtype == np.uint8 and VOID not in self.values.values()
        void = labels == VOID if has_void and (labels == VOID).any() else None
        return GroundTruth({number: labels == value for number, value in self.values.items()}, void)


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip of a data set.

    Attributes:
        name: unique in its data set.
        frames: source of its frames.
        plan: its prompts, at least one.
        truth: its ground-truth masks, or None.
    """

    name: str
    frames: FrameSource
    plan: PromptPlan
    truth: Annotations | None

    @property
    def length(self) -> int:
        """The exact number of frames. May decode a whole video.

        Raises:
            InputError: the frames are those of a camera, which has no end, or of a video that is damaged.
        """
        count = self.frames.count()
        if count is None:
            raise InputError(f"clip {self.name} has no end; give a video file or a folder of images")
        _refuse_damage(self.name, self.frames)
        return count


def _refuse_damage(name: str, frames: FrameSource) -> None:
    """
    Args:
        name: of the clip.
        frames: that have just been counted.

    Raises:
        InputError: some are lost.
    """
    ending = frames.ending
    if ending is not None and not ending.is_whole:
        raise InputError(
            f"clip {name} is damaged: {ending.shortfall()}; its figures would not be comparable, so give an undamaged "
            "copy"
        )


def find_clips(path: Path, prompts: Path | None = None) -> list[Clip]:
    """The clips of a data set, in the order of their names.

    Args:
        path: of the data set, in one of the three layouts.
        prompts: prompts file, where `path` is a single clip.

    Raises:
        InputError: there is no clip, or one of them has no prompts or cannot be read.
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
        raise InputError(f"{path} is one clip; name the objects to track in it with `prompts=FILE.json`")
    if not found:
        raise InputError(f"{path} holds no clips; give {LAYOUTS}")
    names = [entry.stem for entry in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} holds several clips named {twice}; rename one of them")
    return [_clip(entry, entry.with_name(f"{entry.stem}.json")) for entry in found]


def _clip(source: Path, prompts: Path) -> Clip:
    """A video or image folder with a prompts file, and ground truth in `NAME_masks` where that exists."""
    if not prompts.is_file():
        raise InputError(
            f"clip {source} has no prompts: there is no {prompts}; write one, or name it with `prompts` (one clip only)"
        )
    frames = open_source(str(source))
    plan = plan_file(prompts)
    masks = source.with_name(f"{source.stem}_masks")
    truth = None
    if masks.is_dir():
        files = sorted(file for file in masks.iterdir() if file.suffix.lower() == ".png")
        count = frames.count()
        _refuse_damage(source.stem, frames)
        if len(files) != count:
            raise InputError(f"{masks} holds {len(files)} masks for {count} frames; give one for each frame")
        truth = Annotations(dict(enumerate(files)), _values(files, plan.object_ids, masks))
    return Clip(source.stem, frames, plan, truth)


def _values(files: list[Path], object_ids: list[int], masks: Path) -> dict[int, int]:
    """Pixel value of each object in the masks: its id, or the only value where there is one object and one value.

    Raises:
        InputError: no object of the prompts has a value in the masks.
    """
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
        plan, values = _first_masks(files, masks)
        # Masks that are given as prompts cannot serve as ground truth; without others there is none.
        prompted = {planned.frame for planned in plan}
        truth = Annotations(files, values) if set(files) - prompted else None
        yield Clip(folder.name, frames, PromptPlan(plan, list(files.values())), truth)


def _resolution(images: Path) -> Path:
    """The folder that holds the clips' folders: `JPEGImages` itself, its only resolution, or its 480p."""
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


def _first_masks(files: dict[int, Path], masks: Path) -> tuple[list[PlannedPrompt], dict[int, int]]:
    """A mask prompt for each object on the first frame that shows it, and pixel values by object id."""
    first: dict[int, tuple[int, np.ndarray]] = {}
    for index, file in sorted(files.items()):
        labels = _labels(file)
        for value in np.unique(labels[labels > 0]).tolist():
            first.setdefault(value, (index, labels == value))
    if len(first) > 1:
        first.pop(VOID, None)
    if not first:
        raise InputError(f"{masks} marks no object; give annotations whose objects are not black")
    # A single object may have any value (255 in DAVIS 2016) and gets id 1. With several, the value is the id.
    numbers = {value: value if len(first) > 1 else 1 for value in first}
    planned = [
        PlannedPrompt(index, numbers[value], Prompt(mask=mask), str(files[index]))
        for value, (index, mask) in first.items()
    ]
    return planned, {number: value for value, number in numbers.items()}


def _labels(file: Path) -> np.ndarray:
    """The pixel values of an annotation, (H, W): uint8, or int64 of a grey image of more than 8 bits.

    Raises:
        InputError: the file is missing or damaged, or not a palette or grey image.
    """
    try:
        image = load_image(file, "an annotation")
    except FileNotFoundError:
        raise InputError(f"there is no annotation at {file}; do not change the folder while it is read") from None
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if image.mode not in ("P", "L", "1"):
        raise InputError(f"{file} has mode {image.mode}; annotations are palette or grey PNG images")
    return np.asarray(image).astype(np.uint8)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())


def _is_masks(folder: Path) -> bool:
    """Whether a folder holds the ground-truth masks of another clip in the same folder."""
    return folder.name.endswith("_masks") and any(
        entry.stem == folder.name.removesuffix("_masks") and entry != folder for entry in folder.parent.iterdir()
    )
