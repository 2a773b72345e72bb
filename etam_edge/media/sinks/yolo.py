"""Masks as YOLO segmentation labels: a text file for each frame, and a data.yaml with the names of the classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from etam_edge.media.opencv import import_opencv
from etam_edge.media.polygons import linked, parts_of
from etam_edge.media.sinks.coco import CATEGORY
from etam_edge.media.sinks.frame_files import FrameFiles
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult


class YoloFolder:
    """NAME.txt with a line `class x1 y1 x2 y2 ...` for each object, in shares of the image's sides.

    A line holds one polygon, so parts of a mask and its holes are linked where they are nearest, as converters to this
    format do. Classes are the labels of objects, numbered from 0 as they occur, and named in `data.yaml`.

    Args:
        path: of the folder.
        labels: names of objects, by id.
        overwrite: replace files of the same names.

    Raises:
        InputError: the folder cannot be written, or holds text files already.
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(self, path: Path, labels: Mapping[int, str] | None = None, overwrite: bool = False) -> None:
        self._cv2 = import_opencv("`yolo`")
        self.path = path
        self._labels = {} if labels is None else labels
        self._files = FrameFiles(path, ".txt", "yolo", overwrite)
        self._names = FrameFiles(path, ".yaml", "yolo", overwrite=True)
        self._classes: dict[str, int] = {}

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        sides = np.array(frame.pixels.shape[1::-1])
        lines = []
        for object_id, mask in zip(result.object_ids, result.masks, strict=True):
            parts = parts_of(self._cv2, mask)
            if parts:
                number = self._classes.setdefault(self._labels.get(object_id, CATEGORY), len(self._classes))
                polygon = (linked(parts) / sides).ravel()
                lines.append(f"{number} {' '.join(f'{value:.6f}' for value in polygon)}\n")
        self._files.write(frame.name, "".join(lines).encode())

    def close(self) -> None:
        names = self._classes or {CATEGORY: 0}
        # A JSON string is a YAML string, whatever is in it.
        text = "names:\n" + "".join(f"  {number}: {json.dumps(name)}\n" for name, number in names.items())
        self._names.write("data", text.encode())

    def discard(self) -> None:
        self._files.discard()
