"""Which outputs a run was asked for: checked before any work is done, then opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from etam_edge.atomic import STANDARD_OUTPUT, descriptor_of, is_replaceable
from etam_edge.errors import InputError
from etam_edge.media.opencv import import_opencv
from etam_edge.media.sinks.base import Output, check_file
from etam_edge.media.sinks.coco import CocoFile
from etam_edge.media.sinks.frame_files import check_frame_files
from etam_edge.media.sinks.labelme import LabelMeFolder
from etam_edge.media.sinks.masks import MaskFolder, check_folder
from etam_edge.media.sinks.mots import MotsFile
from etam_edge.media.sinks.outputs import Outputs
from etam_edge.media.sinks.scores import ScoreLines
from etam_edge.media.sinks.video import OverlayVideo, check_video
from etam_edge.media.sinks.yolo import YoloFolder
from etam_edge.media.sources import IMAGE_SUFFIXES

DASH = Path("-")
"""Stands for standard output."""


@dataclass(frozen=True)
class OutputRequest:
    """Outputs of a run.

    Attributes:
        output: overlay video, .mp4.
        masks: folder of PNG masks.
        scores: file of JSON lines; "-" is standard output.
        overwrite: replace files that are there, and remove masks of an earlier run.
        coco: JSON file of a COCO data set.
        mots: file of MOTS text.
        yolo: folder of YOLO segmentation labels.
        labelme: folder of LabelMe annotations.
    """

    output: Path | None = None
    masks: Path | None = None
    scores: Path | None = None
    overwrite: bool = False
    coco: Path | None = None
    mots: Path | None = None
    yolo: Path | None = None
    labelme: Path | None = None

    def __post_init__(self) -> None:
        if self.scores == DASH:
            object.__setattr__(self, "scores", STANDARD_OUTPUT)
        for name, path in self._places.items():
            if path is not None and "\0" in str(path):
                raise InputError(f"`{name}={str(path)!r}` holds a NUL character; name another place")
            if path == DASH:
                raise InputError(f"`{name}=-` is standard output, which takes `scores` alone; name a place on disk")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for."""
        return not any(self._places.values())

    @property
    def takes_standard_output(self) -> bool:
        """Whether scores go to standard output, where nothing else must be printed then."""
        return self.scores is not None and descriptor_of(self.scores) == 1

    def check(self, source: Path | None, files: Iterable[Path], object_ids: Sequence[int]) -> None:
        """Refuse outputs that cannot be written, or would overwrite what is read or what is there. Nothing is created.

        Args:
            source: file or folder of the frames, or None.
            files: of prompts and masks that are read.
            object_ids: that are known beforehand.

        Raises:
            InputError: an output cannot be written, exists already, or would overwrite what is read or another output.
            RuntimeUnavailableError: OpenCV or PyAV is needed and not installed.
        """
        self._check_overwriting(source, files)
        if self.masks is not None:
            check_folder(self.masks, object_ids, self.overwrite)
        if self.output is not None:
            self._check_output(self.output)
        for name in ("coco", "mots"):
            if (path := self._places[name]) is not None:
                check_file(path, name, self.overwrite)
        for name, suffix in (("yolo", ".txt"), ("labelme", ".json")):
            if (path := self._places[name]) is not None:
                import_opencv(f"`{name}`")
                check_frame_files(path, suffix, name, self.overwrite)
        if self.scores is not None and (os.path.isdir(self.scores) or is_replaceable(self.scores)):
            check_file(self.scores, "scores", self.overwrite)

    def open(
        self,
        frames_per_second: float | None,
        frame_shape: tuple[int, int],
        object_ids: Sequence[int] = (),
        labels: Mapping[int, str] | None = None,
        source: Path | None = None,
    ) -> Outputs:
        """Open the outputs.

        Args:
            frames_per_second: of the source, or None where it is not known.
            frame_shape: (H, W) of the frames.
            object_ids: that are known beforehand.
            labels: names of objects, by id. It is looked up on every frame, so that names may be added.
            source: folder of images that the frames come from, or None.

        Raises:
            InputError: one of them cannot be written; nothing is left of the others.
            RuntimeUnavailableError: OpenCV or PyAV is needed and not installed.
        """
        outputs = Outputs()
        try:
            if self.masks is not None:
                outputs.add(MaskFolder(self.masks, object_ids, self.overwrite))
            if self.output is not None:
                outputs.add(self._open_output(self.output, frames_per_second, frame_shape, labels))
            if self.scores is not None:
                outputs.add(self._open_scores(self.scores, labels))
            if self.coco is not None:
                outputs.add(CocoFile(self.coco, labels, self.overwrite))
            if self.mots is not None:
                outputs.add(MotsFile(self.mots, self.overwrite))
            if self.yolo is not None:
                outputs.add(YoloFolder(self.yolo, labels, self.overwrite))
            if self.labelme is not None:
                outputs.add(LabelMeFolder(self.labelme, source, labels, self.overwrite))
        except BaseException:
            outputs.close()
            raise
        return outputs

    @property
    def _places(self) -> dict[str, Path | None]:
        names = ("output", "masks", "scores", "coco", "mots", "yolo", "labelme")
        return {name: getattr(self, name) for name in names}

    def _check_output(self, path: Path) -> None:
        check_video(path, self.overwrite)

    def _open_output(
        self,
        path: Path,
        frames_per_second: float | None,
        frame_shape: tuple[int, int],
        labels: Mapping[int, str] | None,
    ) -> Output:
        return OverlayVideo(path, frames_per_second, frame_shape, labels, self.overwrite)

    def _open_scores(self, path: Path, labels: Mapping[int, str] | None) -> Output:
        return ScoreLines(path, labels, self.overwrite)

    def _check_overwriting(self, source: Path | None, files: Iterable[Path]) -> None:
        source = source.resolve() if source else None
        read = [path.resolve() for path in files]
        files_written: dict[Path, str] = {}
        for name in ("output", "scores", "coco", "mots"):
            path = self._places[name]
            if path is None:
                continue
            place = path.resolve()
            if place in files_written:
                raise InputError(f"`{files_written[place]}` and `{name}` are both {path}; name two files")
            files_written[place] = name
            if place in (source, *read) or (place.parent == source and place.suffix.lower() in IMAGE_SUFFIXES):
                raise InputError(f"`{name}={path}` would overwrite what this run reads; name another file")
        if self.masks is not None:
            guarded = [source, *(path.parent for path in read if path.suffix.lower() == ".png")]
            if self.masks.resolve() in guarded:
                raise InputError(
                    f"`masks={self.masks}` holds what this run reads and might overwrite it; name another folder"
                )
