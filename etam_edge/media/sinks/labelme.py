"""Masks as LabelMe annotations: a JSON file for each frame, beside the images or elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from etam_edge.media.opencv import import_opencv
from etam_edge.media.polygons import parts_of
from etam_edge.media.sinks.coco import CATEGORY
from etam_edge.media.sinks.frame_files import FrameFiles
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

VERSION = "5.5.0"
"""Of LabelMe's format."""


class LabelMeFolder:
    """NAME.json with a polygon for each part of each object; the parts of one object share its id as `group_id`.

    Holes are linked to the outline of their part. `imagePath` is the image's path from the folder; a frame of a video
    has none, so its images are expected beside the files as NAME.jpg.

    Args:
        path: of the folder.
        images: folder of the images, or None for a video.
        labels: names of objects, by id.
        overwrite: replace files of the same names.

    Raises:
        InputError: the folder cannot be written, or holds JSON files already.
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        labels: Mapping[int, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self._cv2 = import_opencv("`labelme`")
        self.path = path
        self._images = path if images is None else images
        self._labels = {} if labels is None else labels
        self._files = FrameFiles(path, ".json", "labelme", overwrite)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        height, width = frame.pixels.shape[:2]
        shapes = [
            {
                "label": self._labels.get(object_id, CATEGORY),
                "points": part.astype(float).tolist(),
                "group_id": object_id,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for object_id, mask in zip(result.object_ids, result.masks, strict=True)
            for part in parts_of(self._cv2, mask)
        ]
        record = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.relpath(self._images / frame.file_name, self.path),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        self._files.write(frame.name, json.dumps(record).encode())

    def close(self) -> None:
        """Nothing to do: every file is complete."""

    def discard(self) -> None:
        self._files.discard()
