"""Masks as a COCO data set: one JSON file with compressed RLE, as pycocotools and FiftyOne read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etam_edge.media.sinks.base import PendingFile, cannot_write
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

CATEGORY = "object"
"""Category of objects without a label."""


class CocoFile:
    """Images, annotations and categories, written when all frames have come.

    Every object of a frame that has a pixel is one annotation with `score`, the predicted IoU, and `track_id`, the
    object's id. A category is a label of an object.

    Args:
        path: of the file.
        labels: names of objects, by id.
        overwrite: replace a file that is there.

    Raises:
        InputError: it cannot be written, or is there already.
    """

    def __init__(self, path: Path, labels: Mapping[int, str] | None = None, overwrite: bool = False) -> None:
        self.path = path
        self._labels = {} if labels is None else labels
        self._pending = PendingFile(path, "coco", overwrite)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        image = len(self._images) + 1
        height, width = frame.pixels.shape[:2]
        self._images.append({"id": image, "file_name": frame.file_name, "width": width, "height": height})
        for annotation in result.to_coco(image):
            object_id = annotation.pop("object_id")
            del annotation["object_score"]
            if annotation["area"]:
                label = self._labels.get(object_id, CATEGORY)
                annotation["category_id"] = self._categories.setdefault(label, len(self._categories) + 1)
                self._annotations.append({"id": len(self._annotations) + 1, **annotation, "track_id": object_id})

    def close(self) -> None:
        names = self._categories or {CATEGORY: 1}
        text = json.dumps(
            {
                "info": {"description": "masks by etam-edge"},
                "images": self._images,
                "annotations": self._annotations,
                "categories": [{"id": number, "name": name} for name, number in names.items()],
            }
        )
        try:
            self._pending.temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            self.discard()
            raise cannot_write(self.path, error) from error
        self._pending.commit()

    def discard(self) -> None:
        self._pending.discard()
