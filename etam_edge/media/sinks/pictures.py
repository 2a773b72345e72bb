"""Images with masks drawn over them, one JPEG for each."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from etam_edge.media.opencv import import_opencv
from etam_edge.media.overlay import draw_masks
from etam_edge.media.sinks.frame_files import FrameFiles
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

QUALITY = 92
"""Of the JPEG files."""


class PictureFolder:
    """NAME.jpg with the image, its masks in colours, and the ids and predicted IoUs.

    Args:
        path: of the folder.
        overwrite: replace files of the same names.

    Raises:
        InputError: the folder cannot be written, or holds JPEG files already.
        RuntimeUnavailableError: OpenCV is not installed.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self._cv2 = import_opencv("`output`")
        self.path = path
        self._files = FrameFiles(path, ".jpg", "output", overwrite)

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        texts = [f"{object_id} {iou:.2f}" for object_id, iou in zip(result.object_ids, result.ious, strict=True)]
        picture = draw_masks(self._cv2, frame.pixels, result.object_ids, result.masks, texts)
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="JPEG", quality=QUALITY)
        self._files.write(frame.name, content.getvalue())

    def close(self) -> None:
        """Nothing to do: every picture is complete."""

    def discard(self) -> None:
        self._files.discard()
