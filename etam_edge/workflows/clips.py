"""Clips and recordings as workflows take them: a path, or objects that are loaded already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.errors import InputError

if TYPE_CHECKING:
    from etam_edge.calibration.recording import Recording
    from etam_edge.media.datasets import Clip
    from etam_edge.spec import GraphSizes

PathLike = str | os.PathLike[str]
ClipsLike = "PathLike | Sequence[Clip]"
"""A folder of clips (`etam_edge.media.datasets.find_clips` says which layouts), a single clip, or `Clip` objects."""


def load_clips(clips: PathLike | Sequence[Clip], prompts: PathLike | None = None) -> list[Clip]:
    """Clips from a path, or as they are.

    Args:
        clips: a path or `Clip` objects.
        prompts: JSON file of prompts, where the path is a single clip.

    Raises:
        InputError: there is no clip, or one has no prompt or cannot be read.
        RuntimeUnavailableError: a clip is a video and OpenCV is not installed.
    """
    from etam_edge.media.datasets import find_clips

    if isinstance(clips, str | os.PathLike):
        return find_clips(Path(clips), None if prompts is None else Path(prompts))
    if prompts is not None:
        raise InputError("`prompts` names what to track in a clip given as a path; `Clip` objects have their own")
    return list(clips)


def load_calibration(
    calibration: PathLike | Sequence[Clip] | Recording, prompts: PathLike | None = None
) -> list[Clip] | Recording:
    """Clips to record, or a recording that was made earlier.

    Raises:
        InputError: there is neither, or what is there cannot be read.
        RuntimeUnavailableError: a clip is a video and OpenCV is not installed.
    """
    from etam_edge.calibration.recording import MANIFEST, Recording

    if isinstance(calibration, Recording):
        return calibration
    if isinstance(calibration, str | os.PathLike):
        path = Path(calibration)
        if not path.exists():
            raise InputError(f"there is nothing at `calibration={path}`; give clips or a recording")
        if (path / MANIFEST).is_file():
            return Recording.load(path)
    return load_clips(calibration, prompts)


def check_frame_shapes(clips: Sequence[Clip], sizes: GraphSizes, bundle: str) -> None:
    """Refuse clips whose frames a bundle does not take.

    Args:
        clips: any number.
        sizes: of the bundle's graphs.
        bundle: how the error names it.

    Raises:
        InputError: a clip's frames have another size than the graphs take.
    """
    for clip in clips:
        sizes.check_frame_shape(clip.frames.frame_shape, f"clip {clip.name}", bundle)
