"""Output files of tracking: an overlay video, PNG masks, and JSON lines of scores.

A video or score file appears when it is complete; each mask appears as soon as it is written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from etam_edge.atomic import AtomicFile, atomic_file, open_stream
from etam_edge.errors import InputError
from etam_edge.media.overlay import PALETTE, draw_masks
from etam_edge.media.sources import NamedFrame, import_opencv
from etam_edge.runtimes.types import FrameResult

DEFAULT_RATE = 30.0
"""Frames per second of an overlay video whose source does not know its own."""


class Output(Protocol):
    """Receives the result of every frame.

    Attributes:
        path: file or folder that is written.
    """

    path: Path

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """Write one frame.

        Raises:
            InputError: it cannot be written.
        """

    def close(self) -> None:
        """Complete the output with the frames written so far.

        Raises:
            InputError: some of them could not be written; an incomplete file is removed.
        """

    def discard(self) -> None:
        """Remove what is incomplete."""


def check_writable(path: Path, parameter: str) -> None:
    """Create the directory of a file to be written, and refuse a path where none can be.

    Raises:
        InputError: `path` is a directory or a device, or its directory cannot be written.
    """
    if path.is_dir():
        raise InputError(f"`{parameter}={path}` is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        AtomicFile(path).discard()
    except OSError as error:
        raise InputError(f"`{parameter}={path}` cannot be written ({error.strerror}); name another place") from error


class OverlayVideo:
    """An .mp4 video of the frames with masks drawn over them.

    Args:
        path: of the file.
        frames_per_second: of the video; DEFAULT_RATE where it is None.
        frame_shape: (H, W) of the frames.

    Raises:
        InputError: the file cannot be written, or its name does not end in .mp4.
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(self, path: Path, frames_per_second: float | None, frame_shape: tuple[int, int]) -> None:
        if path.suffix.lower() != ".mp4":
            raise InputError(f"`output={path}` is not an .mp4 file; name one that ends in .mp4")
        self._cv2 = import_opencv()
        check_writable(path, "output")
        self.path = path
        self._count = 0
        # The codec needs even sides (4:2:0 subsampling); an odd last row or column is left out.
        self._height, self._width = (side - side % 2 for side in frame_shape)
        self._pending = _pending(path)
        self._writer: Any = self._cv2.VideoWriter(
            str(self._pending.temporary),
            self._cv2.VideoWriter_fourcc(*"mp4v"),
            frames_per_second or DEFAULT_RATE,
            (self._width, self._height),
        )
        if not self._writer.isOpened():
            self.discard()
            raise InputError(
                f"`output={path}` cannot be written by OpenCV as {self._width} x {self._height} pixels; free space "
                "there, name another place, or use `masks=DIR`"
            )

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        image = draw_masks(self._cv2, frame.pixels, result.object_ids, result.masks)[: self._height, : self._width]
        self._writer.write(np.ascontiguousarray(image[..., ::-1]))
        self._count += 1

    def close(self) -> None:
        self._writer.release()
        # OpenCV's writer does not report a full disk, so the frames of the file are counted.
        check = self._cv2.VideoCapture(str(self._pending.temporary))
        written = int(check.get(self._cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if written != self._count:
            self.discard()
            raise InputError(f"{self.path} could not be written whole (is the disk full?); free space and run it again")
        _commit(self._pending)

    def discard(self) -> None:
        self._writer.release()
        self._pending.discard()


class MaskFolder:
    """A folder of palette PNGs as in DAVIS annotations, one for each frame: a pixel's value is the object's id.

    Where masks overlap, the pixel belongs to the object with the higher score.

    Args:
        path: of the folder, which is created where it does not exist.
        object_ids: all that may occur.

    Raises:
        InputError: the folder cannot be written, or an id is not from 1 to 255.
    """

    def __init__(self, path: Path, object_ids: Sequence[int]) -> None:
        beyond = [object_id for object_id in object_ids if not 1 <= object_id <= 255]
        if beyond:
            raise InputError(
                f"object {beyond[0]} cannot be written to `masks`: a palette holds ids 1 to 255; renumber it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"`masks={path}` cannot be made ({error.strerror}); name another folder") from error
        check_writable(path / "mask.png", "masks")
        self.path = path

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        labels = np.zeros(frame.pixels.shape[:2], dtype=np.uint8)
        for row in np.argsort(result.object_scores, kind="stable"):
            labels[result.masks[row]] = result.object_ids[row]
        image = Image.fromarray(labels)
        image.putpalette(PALETTE.tobytes())
        target = self.path / f"{frame.name}.png"
        try:
            # Flushing every mask to the disk would take longer than tracking the frame.
            with atomic_file(target, sync=False) as file:
                image.save(file, format="PNG")
        except OSError as error:
            raise InputError(f"{target} could not be written ({error.strerror or error}); free space there") from error

    def close(self) -> None:
        """Nothing to do: every mask is complete."""

    def discard(self) -> None:
        """Nothing to do: complete masks are kept."""


class ScoreLines:
    """JSON lines, one for each frame: its index and name, and the scores, area and box (in pixels) of each object.

    Args:
        path: of the file; a pipe or /dev/stdout is written to as the frames come.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failure: InputError | None = None
        self._pending: AtomicFile | None = None
        try:
            file = open_stream(path)
        except OSError as error:
            raise InputError(f"`scores={path}` cannot be written ({error.strerror}); name another place") from error
        if file is None:
            check_writable(path, "scores")
            self._pending = _pending(path)
            file = open(self._pending.temporary, "wb")  # noqa: SIM115 - closed by close or discard
        self._file = io.TextIOWrapper(file, encoding="utf-8")

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        objects = [
            {
                "id": object_id,
                "object_score": round(float(result.object_scores[row]), 4),
                "iou": round(float(result.ious[row]), 4),
                "visible": bool(result.visible[row]),
                "area": int(result.areas[row]),
                # The box of an empty mask is null here: a reader of JSON would take zeros for a box in the corner.
                "box": [int(side) for side in result.boxes[row]] if result.areas[row] else None,
            }
            for row, object_id in enumerate(result.object_ids)
        ]
        line = {"frame_index": result.frame_index, "frame": frame.name, "objects": objects}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            # The last line may be incomplete now, so the file is not kept.
            self._failure = InputError(f"{self.path} could not be written ({error.strerror}); free space there")
            raise self._failure from error

    def close(self) -> None:
        if self._failure:
            self.discard()
            raise self._failure
        try:
            self._file.close()
        except OSError as error:
            self.discard()
            raise InputError(f"{self.path} could not be written ({error.strerror}); free space there") from error
        if self._pending is not None:
            _commit(self._pending)

    def discard(self) -> None:
        # Closing may fail on a full disk; the file is removed in any case.
        with suppress(OSError):
            self._file.close()
        if self._pending is not None:
            self._pending.discard()


def _pending(path: Path) -> AtomicFile:
    """
    Raises:
        InputError: no temporary file can be created beside `path`.
    """
    try:
        return AtomicFile(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another place") from error


def _commit(pending: AtomicFile) -> None:
    """
    Raises:
        InputError: the temporary file cannot be flushed to the disk or renamed.
    """
    try:
        pending.commit()
    except OSError as error:
        raise InputError(f"{pending.path} could not be written ({error.strerror}); name another place") from error
