"""Real clips: moving backgrounds, and two people before a plain ground whose masks colour alone gives.

Every clip is decoded once into the cache, where processes share it: at most `FRAMES` frames of `HEIGHT` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from etam_edge.atomic import atomic_file

HEIGHT, FRAMES = 240, 100
KEYED = ("simpl_dancer", "mdn_chroma_man")
"""Clips that are cut out; the second one's camera leaves the wall after two thirds."""


class Videos:
    """Clips of a folder of MP4 files.

    Args:
        folder: None or a folder that does not exist has none.
        cache: where decoded frames are kept.
    """

    def __init__(self, folder: Path | None, cache: Path) -> None:
        files = sorted(folder.glob("*.mp4")) if folder else []
        self.frames = [_decoded(file, cache) for file in files if file.stem not in KEYED]
        self.people = [_keyed(file, cache) for file in files if file.stem in KEYED]

    def background(self, rng: np.random.Generator, length: int) -> list[np.ndarray]:
        """Frames of one clip, uint8 RGB, forwards or backwards, at a pace of 1 to 3 of its stored frames."""
        return _cut(rng, self.frames[rng.integers(len(self.frames))], length)

    def person(self, rng: np.random.Generator, length: int) -> list[np.ndarray]:
        """Frames of a person, uint8 RGBA, not premultiplied."""
        return _cut(rng, self.people[rng.integers(len(self.people))], length)


def _cut(rng: np.random.Generator, frames: np.ndarray, length: int) -> list[np.ndarray]:
    stride = int(rng.integers(1, 4))
    stride = max(1, min(stride, (len(frames) - 1) // length))
    span = min(len(frames), stride * (length - 1) + 1)
    first = int(rng.integers(len(frames) - span + 1))
    chosen = first + np.minimum(np.arange(length) * stride, span - 1)
    return [frames[index] for index in (chosen[::-1] if rng.random() < 0.5 else chosen)]


def _decoded(file: Path, cache: Path) -> np.ndarray:
    return _kept(cache / "videos" / f"{file.stem}.npy", lambda: np.stack(list(_read(file, 1.0))))


def _keyed(file: Path, cache: Path) -> np.ndarray:
    def make() -> np.ndarray:
        return np.stack([_key(frame) for frame in _read(file, 0.66 if file.stem == "mdn_chroma_man" else 1.0)])

    return _kept(cache / "videos" / f"{file.stem}.rgba.npy", make)


def _kept(kept: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as draft:
            np.save(draft, make())
    return np.load(kept, mmap_mode="r")


def _read(file: Path, until: float) -> Iterator[np.ndarray]:
    """uint8 RGB frames of the first part of a clip."""
    video = cv2.VideoCapture(str(file))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT) * until)
    stride = max(1, round(video.get(cv2.CAP_PROP_FPS) / 15), -(-count // FRAMES))
    for index in range(count):
        if not video.grab():
            return
        if index % stride == 0:
            _, frame = video.retrieve()
            size = (round(frame.shape[1] * HEIGHT / frame.shape[0]), HEIGHT)
            yield cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def _key(frame: np.ndarray) -> np.ndarray:
    """The frame with the ground, the median colour of its upper corners, made transparent."""
    corner = np.concatenate((frame[:40, :40].reshape(-1, 3), frame[:40, -40:].reshape(-1, 3)))
    ground = np.median(cv2.cvtColor(corner[None], cv2.COLOR_RGB2LAB)[0].astype(np.float32), 0)
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(np.float32) - ground
    plain = np.hypot(lab[..., 1], lab[..., 2]) < 22  # the colour of the ground, whatever the light on it
    if abs(ground[1] - 128) + abs(ground[2] - 128) < 12:
        plain = np.abs(lab).max(-1) < 12  # a grey ground: brightness tells as well
    mask = cv2.morphologyEx((~plain).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count > 1:
        mask = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    alpha = cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3), np.uint8)) * 255, (0, 0), 0.8)
    return np.dstack((frame, alpha))
