"""What is learned from in which stage: batches of photographs and of clips, the same again for the same number."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from clips import make_clip
from photos import Photos, Still
from rendered import Rendered
from rollout import Plan
from scenes import Scenes
from sources import Sources
from videos import Videos

SEED = 20261128
HELD_OUT_SEED = 30_000_000_000
"""Of the clips that the training is watched by; far from every seed of the training, and not those of evaluate.py."""
STILLS, OBJECTS_OF_STILL = 3, 4
OBJECTS = 2
"""Targets in each clip; they share the image encoder."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        until: core-hours of the whole training at which it ends.
        shares: how often a batch is of which kind.
        length: frames of a clip.
        pace, small: how fast clips move, and the size of their smallest objects.
    """

    name: str
    until: float
    shares: dict[str, float]
    length: int = 8
    pace: float = 0.8
    small: float = 0.12


STAGES = (
    Stage("objects", until=0.49, shares={"photo": 0.9, "scene": 0.05, "turned": 0.02, "drawn": 0.03}, length=6),
    Stage("clips", until=float("inf"), shares={"photo": 0.4, "scene": 0.22, "turned": 0.1, "drawn": 0.28}),
)


def stage_at(hours: float, name: str | None = None) -> Stage:
    """The stage of this name, or else the one that these core-hours fall into."""
    return next(stage for stage in STAGES if (stage.name == name if name else hours < stage.until))


@dataclass
class Batch:
    """Either photographs or clips of one kind.

    Attributes:
        frames: uint8 (C, N, S, S, 3); masks: uint8 (C, N, K, S, S).
    """

    kind: str
    number: int
    stills: list[Still] | None = None
    frames: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    plan: Plan | None = None


class Material:
    """Everything that batches are made of.

    Args:
        data: folder with photos/ and others; None or missing parts are left out.
        side: of all frames, in pixels.
        larger: times more images or clips a batch than on a CPU.
    """

    def __init__(
        self, data: Path | None, side: int, larger: int, photos: tuple[Path, ...], font: Path | None, cache: Path
    ) -> None:
        self.side, self.larger = side, larger
        folder = data / "photos" if data else None
        self.photos, self.held_out_photos = Photos(folder, False), Photos(folder, True)
        self.sources = Sources(False, photos, font, cache)
        self.held_out_sources = Sources(True, (), font, cache)
        videos, rendered = data / "videos" if data else None, cache.parent / "rendered"
        self.scenes = Scenes(self.sources, self.photos, Videos(videos, cache), Rendered(rendered, False))
        # Clips without masks teach nothing that an evaluation could repeat: they stand behind held-out objects, too.
        self.held_out_scenes = Scenes(
            self.held_out_sources, self.held_out_photos, self.scenes.videos, Rendered(rendered, True)
        )

    @classmethod
    def of(cls, options: argparse.Namespace) -> Material:
        from etam_edge.spec import find_spec

        side = options.side or find_spec(options.model).image_size
        return cls(
            options.data, side, options.larger, tuple(options.photos), options.emoji_font, options.output / "cache"
        )

    def __str__(self) -> str:
        return (
            f"{len(self.photos)} photographs with masks ({len(self.held_out_photos)} held out), "
            f"{len(self.sources.photos)} without, {self.sources.glyph_count} glyphs, "
            f"{len(self.scenes.videos.frames)} videos, {len(self.scenes.rendered.files)} rendered clips"
        )

    def batch(self, stage: Stage, number: int) -> Batch:
        rng = np.random.default_rng((SEED, number))
        missing = set() if len(self.photos) else {"photo"}
        missing |= set() if self.scenes.rendered.files else {"turned"}
        kinds = {kind: share for kind, share in stage.shares.items() if kind not in missing}
        shares = np.array(list(kinds.values()))
        kind = str(rng.choice(list(kinds), p=shares / shares.sum()))
        if kind == "photo":
            return Batch(kind, number, stills=self._stills(rng))
        clips = []
        for seed in map(int, rng.integers(1 << 31, size=self.larger)):
            if kind == "drawn":
                clip = make_clip(self.sources, seed, self.side, stage.length, OBJECTS, stage.small, stage.pace)
            else:
                clip = self.scenes.clip(seed, self.side, stage.length, OBJECTS, stage.pace, kind == "turned")
            clips.append(clip)
        return _clips(kind, number, clips, Plan.draw(rng, stage.length))

    def _stills(self, rng: np.random.Generator) -> list[Still]:
        stills: list[Still] = []
        while len(stills) < STILLS * self.larger:
            still = self.photos.still(rng, self.side, OBJECTS_OF_STILL)
            if still is not None:
                stills.append(still)
        return stills

    def held_out_clip(self, number: int) -> Batch:
        """A clip of objects and pictures that training never shows: drawn or a scene, prompted by mask or click."""
        seed = HELD_OUT_SEED + number
        if number % 4 < 2:
            made, clip = "drawn", make_clip(self.held_out_sources, seed, self.side, 12, OBJECTS, pace=0.8)
        else:
            made, clip = "scene", self.held_out_scenes.clip(seed, self.side, 12, OBJECTS, pace=0.8)
        kind = ("mask", "point")[number % 2]
        return _clips(f"{made}_{kind}", number, [clip], Plan(kind, 0, None))


def _clips(kind: str, number: int, clips: list, plan: Plan) -> Batch:
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    masks = torch.from_numpy(np.stack([clip.masks for clip in clips]))
    return Batch(kind, number, frames=frames, masks=masks, plan=plan)
