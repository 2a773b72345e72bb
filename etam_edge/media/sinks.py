"""What `track` writes: an overlay video, PNG masks, and a line of scores for each frame.

A video or score file is written under a temporary name and renamed when it is complete; masks are complete one by one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.media.overlay import PALETTE, overlay
from etam_edge.media.sources import NamedFrame, import_opencv
from etam_edge.runtimes.types import FrameResult

DEFAULT_RATE = 30.0
"""Frames per second of an overlay whose source has no clock."""


class Output(Protocol):
    """Somewhere that results go."""

    path: Path

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        """
        Raises:
            InputError: it cannot be written.
        """

    def close(self) -> None:
        """Complete it with the frames that were written.

        Raises:
            InputError: not all of them are there; nothing half-written is left.
        """

    def discard(self) -> None:
        """Leave nothing half-written."""


def check_writable(path: Path, option: str) -> None:
    """
    Raises:
        InputError: no file can be made beside `path`.
    """
    probe = _draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder; name a file in it")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written ({error.strerror}); name another place") from error


class OverlayVideo:
    """The frames with each object's mask over them, as mp4."""

    def __init__(self, path: Path, frames_per_second: float | None, frame_shape: tuple[int, int]) -> None:
        if path.suffix.lower() != ".mp4":
            raise InputError(f"--output {path} is no .mp4 file; name one that ends in .mp4")
        self._cv2 = import_opencv()
        check_writable(path, "--output")
        self.path = path
        self._count = 0
        # The codec halves the colour planes: an odd row or column would be lost.
        self._height, self._width = (side - side % 2 for side in frame_shape)
        self._writer: Any = self._cv2.VideoWriter(
            str(_draft(path)),
            self._cv2.VideoWriter_fourcc(*"mp4v"),
            frames_per_second or DEFAULT_RATE,
            (self._width, self._height),
        )
        if not self._writer.isOpened():
            self.discard()
            raise InputError(
                f"--output {path} cannot be written by OpenCV as {self._width} x {self._height} pixels; free space "
                "there, name another place, or use --masks DIR"
            )

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        image = overlay(self._cv2, frame.pixels, result.object_ids, result.masks)[: self._height, : self._width]
        self._writer.write(np.ascontiguousarray(image[..., ::-1]))
        self._count += 1

    def close(self) -> None:
        self._writer.release()
        # The writer says nothing of a full disk: the file is read again.
        check = self._cv2.VideoCapture(str(_draft(self.path)))
        written = int(check.get(self._cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if written != self._count:
            self.discard()
            raise InputError(f"{self.path} could not be written whole (is the disk full?); free space and run it again")
        _complete(self.path)

    def discard(self) -> None:
        self._writer.release()
        _draft(self.path).unlink(missing_ok=True)


class MaskFolder:
    """A palette PNG for each frame, as DAVIS annotations: the pixel's value is the object's id.

    Where masks overlap, the object with the higher score has the pixel.
    """

    def __init__(self, path: Path, object_ids: Sequence[int]) -> None:
        beyond = [object_id for object_id in object_ids if not 1 <= object_id <= 255]
        if beyond:
            raise InputError(
                f"object {beyond[0]} cannot be written to --masks: a palette holds ids 1 to 255; renumber it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--masks {path} cannot be made ({error.strerror}); name another folder") from error
        check_writable(path / "mask.png", "--masks")
        self.path = path

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        labels = np.zeros(frame.pixels.shape[:2], dtype=np.uint8)
        for row in np.argsort(result.object_scores, kind="stable"):
            labels[result.masks[row]] = result.object_ids[row]
        image = Image.fromarray(labels)
        image.putpalette(PALETTE.tobytes())
        target = self.path / f"{frame.name}.png"
        draft = _draft(target)
        try:
            image.save(draft, format="PNG")
            draft.replace(target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise InputError(f"{target} could not be written ({error.strerror or error}); free space there") from error

    def close(self) -> None:
        """Every mask is complete already."""

    def discard(self) -> None:
        """Masks that are complete stay."""


class ScoreLines:
    """One JSON object a line and frame: the frame, and for each object its scores, area and box in pixels."""

    def __init__(self, path: Path) -> None:
        check_writable(path, "--scores")
        self.path = path
        self._failure: InputError | None = None
        try:
            self._file = open(_draft(path), "w", encoding="utf-8")  # noqa: SIM115 - closed by close or discard
        except OSError as error:
            raise InputError(f"--scores {path} cannot be written ({error.strerror}); name another place") from error

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        objects = [
            {
                "id": object_id,
                "object_score": round(float(result.object_scores[row]), 4),
                "iou": round(float(result.ious[row]), 4),
                "visible": bool(result.object_scores[row] > 0),
                "area": int(result.masks[row].sum()),
                "box": _box(result.masks[row]),
            }
            for row, object_id in enumerate(result.object_ids)
        ]
        line = {"frame_index": result.frame_index, "frame": frame.name, "objects": objects}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            # Half a line may stand in the file by now.
            self._failure = InputError(f"{self.path} could not be written ({error.strerror}); free space there")
            raise self._failure from error

    def close(self) -> None:
        if self._failure:
            self.discard()
            raise self._failure
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self.discard()
            raise InputError(f"{self.path} could not be written ({error.strerror}); free space there") from error
        _complete(self.path)

    def discard(self) -> None:
        # What a full disk kept from being flushed is thrown away anyhow.
        with suppress(OSError):
            self._file.close()
        _draft(self.path).unlink(missing_ok=True)


def _box(mask: np.ndarray) -> list[int] | None:
    """[x0, y0, x1, y1] around a mask, the far corner beyond it, or None where it is empty."""
    if not mask.any():
        return None
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _complete(path: Path) -> None:
    """
    Raises:
        InputError: the draft cannot take the file's place.
    """
    try:
        _draft(path).replace(path)
    except OSError as error:
        _draft(path).unlink(missing_ok=True)
        raise InputError(f"{path} could not be written ({error.strerror}); name another place") from error


def _draft(path: Path) -> Path:
    """Where a file is written until it is complete; the suffix tells OpenCV the container."""
    return path.with_name(f".{path.stem}.partial{path.suffix}")
