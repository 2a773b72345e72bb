"""Scores of every frame as JSON lines."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from etam_edge.atomic import open_stream
from etam_edge.errors import InputError
from etam_edge.media.sinks.base import PendingFile, cannot_write
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult


class ScoreLines:
    """JSON lines, one for each frame: its index, name and time, and the scores, area and box of each object.

    Args:
        path: of the file; a pipe, a device or /dev/stdout is written to as the frames come, and never replaced.
        labels: names of objects, by id.
        overwrite: replace a file that is there.

    Raises:
        InputError: it cannot be written, or is there already.
    """

    def __init__(self, path: Path, labels: Mapping[int, str] | None = None, overwrite: bool = False) -> None:
        self.path = path
        self._labels = {} if labels is None else labels
        self._failure: InputError | None = None
        self._pending: PendingFile | None = None
        try:
            file = open_stream(path)
        except OSError as error:
            raise InputError(f"`scores={path}` cannot be written ({error.strerror}); name another place") from error
        if file is None:
            self._pending = PendingFile(path, "scores", overwrite)
            file = open(self._pending.temporary, "wb")  # noqa: SIM115 - closed by close or discard
        self._file = io.TextIOWrapper(file, encoding="utf-8")

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        time = frame.timestamp
        line = {
            "frame_index": result.frame_index,
            "frame": frame.name,
            "timestamp": None if time is None else round(time, 6),
            "objects": self._objects(result),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            # The last line may be incomplete now, so the file is not kept.
            self._failure = cannot_write(self.path, error)
            raise self._failure from error

    def _objects(self, result: FrameResult) -> list[dict[str, Any]]:
        return [
            {
                "id": object_id,
                "label": self._labels.get(object_id),
                "object_score": round(float(result.object_scores[row]), 4),
                "iou": round(float(result.ious[row]), 4),
                "visible": bool(result.visible[row]),
                "area": int(result.areas[row]),
                # The box of an empty mask is null here: a reader of JSON would take zeros for a box in the corner.
                "box": [int(side) for side in result.boxes[row]] if result.areas[row] else None,
            }
            for row, object_id in enumerate(result.object_ids)
        ]

    def close(self) -> None:
        if self._failure:
            self.discard()
            raise self._failure
        try:
            self._file.close()
        except OSError as error:
            self.discard()
            raise cannot_write(self.path, error) from error
        if self._pending is not None:
            self._pending.commit()

    def discard(self) -> None:
        # Closing may fail on a full disk; the file is removed in any case.
        with suppress(OSError):
            self._file.close()
        if self._pending is not None:
            self._pending.discard()
