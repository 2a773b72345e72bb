"""Masks as MOTS text: one line for each object and frame, as the tools of MOTSChallenge and TrackEval read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.sinks.base import PendingFile, cannot_write
from etam_edge.media.sinks.masks import values_of
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.rle import encode_rle
from etam_edge.runtimes.types import FrameResult

CLASS = 1
INSTANCES = 1000
"""An id in the file is the class times this, plus the object's own id."""


class MotsFile:
    """Lines of `frame id class height width rle`, frames from 1 as in MOTSChallenge, the RLE as in COCO.

    All objects have class 1, and object 7 has the id 1007. Masks of the format do not overlap: a shared pixel belongs
    to the object with the higher score, as in PNG masks.

    Args:
        path: of the file.
        overwrite: replace a file that is there.

    Raises:
        InputError: it cannot be written, or is there already.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = path
        self._pending = PendingFile(path, "mots", overwrite)
        self._lines: list[str] = []
        self._frames = 0

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        beyond = [object_id for object_id in result.object_ids if not 1 <= object_id < INSTANCES]
        if beyond:
            raise InputError(f"object {beyond[0]} cannot be written to `mots`: it holds ids 1 to {INSTANCES - 1}")
        self._frames += 1
        values = values_of(result, np.uint16)
        height, width = values.shape
        for object_id in result.object_ids:
            mask = values == object_id
            if mask.any():
                number = CLASS * INSTANCES + object_id
                self._lines.append(f"{self._frames} {number} {CLASS} {height} {width} {encode_rle(mask)}\n")

    def close(self) -> None:
        try:
            self._pending.temporary.write_text("".join(self._lines), encoding="ascii")
        except OSError as error:
            self.discard()
            raise cannot_write(self.path, error) from error
        self._pending.commit()

    def discard(self) -> None:
        self._pending.discard()
