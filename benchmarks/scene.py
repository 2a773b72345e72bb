"""The input of all candidates: the same frames, the same click."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from etam_edge_testing.goldens import PARITY

COUNT = 24
"""Different frames; a longer stream begins again with the first."""
CLICK = (0.25, 0.6)
"""The prompt on the first frame, in parts of its width and height."""
QUALITY = 95


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames of a real video at the model's size, so that no candidate has to resize.

    Attributes:
        size: S, pixels of a side.
        folder: of the frames as JPEG files, named by their index.
        frames: uint8 (S, S, 3) RGB each, as those files decode.
    """

    size: int
    folder: Path
    frames: list[np.ndarray]

    @property
    def click(self) -> tuple[float, float]:
        """(x, y) in pixels."""
        return CLICK[0] * self.size, CLICK[1] * self.size

    def frame(self, index: int) -> np.ndarray:
        """uint8 (S, S, 3) RGB of any index from 0 on."""
        return self.frames[index % len(self.frames)]


def make_scene(size: int, folder: Path, count: int = COUNT) -> Scene:
    """Write the frames that the parity goldens were made of as JPEG files, and read them back.

    Args:
        size: S, pixels of a side.
        folder: it is made.
        count: frames, at most 24.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for index in range(count):
        path = folder / f"{index:05d}.jpg"
        image = Image.open(PARITY / "frames" / f"{index:03d}.png").convert("RGB")
        image.resize((size, size), Image.Resampling.NEAREST).save(path, quality=QUALITY)
        # JPEG is lossy: all candidates get the decoded frames.
        frames.append(np.asarray(Image.open(path).convert("RGB")))
    return Scene(size, folder, frames)
