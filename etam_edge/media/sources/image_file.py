"""One image file as a source of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from etam_edge.media.sources.depth import found_range
from etam_edge.media.sources.images import is_deep, load_frame, read_image
from etam_edge.media.sources.types import Cause, Ending, NamedFrame


class ImageFile:
    """An image file. A grey image of more than 8 bits is scaled as a folder of such images is.

    Args:
        path: of the file.

    Raises:
        InputError: it is not an image that is read.
    """

    is_live = False
    length: int | None = 1
    frames_per_second: float | None = None

    def __init__(self, path: Path) -> None:
        self.stem = path.stem
        self.path: Path | None = path
        self.ending: Ending | None = None
        image = load_frame(path)
        depth = found_range([np.asarray(image)]) if is_deep(image) else None
        self._frame = NamedFrame(path.stem, read_image(path, depth), image=path.name)
        self.frame_shape: tuple[int, int] = self._frame.pixels.shape[:2]

    def count(self) -> int | None:
        return self.length

    def close(self) -> None:
        """Nothing to do: the image has been read."""

    def __iter__(self) -> Iterator[NamedFrame]:
        self.ending = Ending(Cause.END, 1)
        yield self._frame
