"""Clips scaled to another frame size, for bundles that accept only one size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from etam_edge.media.datasets import Clip
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sources import Ending, FrameSource, NamedFrame
from etam_edge.runtimes.types import Prompt


class ScaledFrames:
    """The frames of another source, each scaled when it is read, with Pillow's Lanczos filter.

    Args:
        source: of the original frames.
        frame_size: (H, W) of the scaled frames; the aspect ratio may change.
    """

    def __init__(self, source: FrameSource, frame_size: tuple[int, int]) -> None:
        self._source = source
        self.stem = source.stem
        self.path: Path | None = source.path
        self.is_live = source.is_live
        self.depth_range = source.depth_range
        self.length = source.length
        self.frames_per_second = source.frames_per_second
        self.frame_shape = frame_size

    @property
    def ending(self) -> Ending | None:
        return self._source.ending

    def count(self) -> int | None:
        return self._source.count()

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[NamedFrame]:
        height, width = self.frame_shape
        for frame in self._source:
            pixels = frame.pixels
            if pixels.shape[:2] != self.frame_shape:
                pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
            yield dataclasses.replace(frame, pixels=pixels)


def scaled_clip(clip: Clip, frame_size: tuple[int, int]) -> Clip:
    """The clip with frames and prompts scaled to (H, W), without ground truth, whose masks have the original size."""
    before = clip.frames.frame_shape
    planned = [
        dataclasses.replace(one, prompt=scaled_prompt(one.prompt, before, frame_size)) for one in clip.plan.planned
    ]
    plan = PromptPlan(planned, clip.plan.files)
    return Clip(clip.name, ScaledFrames(clip.frames, frame_size), plan, None)


def scaled_prompt(prompt: Prompt, before: tuple[int, int], after: tuple[int, int]) -> Prompt:
    """A prompt scaled with its frame.

    Args:
        prompt: in pixels of the original frame.
        before: (H, W) of the original frame.
        after: (H, W) of the scaled frame.
    """
    scale = np.array([after[1] / before[1], after[0] / before[0]])

    def moved(points: object) -> np.ndarray:
        return np.asarray(points, dtype=np.float64).reshape(-1, 2) * scale

    mask = prompt.mask
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize((after[1], after[0]), Image.Resampling.NEAREST))
    return Prompt(
        points=None if prompt.points is None else moved(prompt.points),
        labels=prompt.labels,
        box=None if prompt.box is None else moved(prompt.box).reshape(-1),
        mask=mask,
    )
