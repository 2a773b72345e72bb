"""Outputs of segmented images: pictures in the place of a video, and lines without what only tracking knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etam_edge.errors import InputError
from etam_edge.media.opencv import import_opencv
from etam_edge.media.sinks.base import Output
from etam_edge.media.sinks.frame_files import check_frame_files
from etam_edge.media.sinks.pictures import PictureFolder
from etam_edge.media.sinks.request import OutputRequest
from etam_edge.media.sinks.scores import ScoreLines
from etam_edge.runtimes.types import FrameResult


class ImageLines(ScoreLines):
    """JSON lines, one for each image: its index and name, and the predicted IoU, area and box of each mask."""

    def _objects(self, result: FrameResult) -> list[dict[str, Any]]:
        kept = ("id", "iou", "area", "box")
        return [{name: one[name] for name in kept} for one in super()._objects(result)]


@dataclass(frozen=True)
class ImageOutputRequest(OutputRequest):
    """As `OutputRequest`, except for `output`, a folder of pictures."""

    def _check_output(self, path: Path) -> None:
        import_opencv("`output`")
        check_frame_files(path, ".jpg", "output", self.overwrite)

    def _open_output(
        self,
        path: Path,
        frames_per_second: float | None,
        frame_shape: tuple[int, int],
        labels: Mapping[int, str] | None,
    ) -> Output:
        return PictureFolder(path, self.overwrite)

    def _open_scores(self, path: Path, labels: Mapping[int, str] | None) -> Output:
        return ImageLines(path, labels, self.overwrite)

    def check_image(self, image: Path) -> None:
        """Refuse to write pictures into the folder of the image that is segmented.

        Raises:
            InputError: `output` is that folder.
        """
        if self.output is not None and self.output.resolve() in (image.resolve(), image.resolve().parent):
            raise InputError(f"`output={self.output}` holds the images and would overwrite them; name another folder")
