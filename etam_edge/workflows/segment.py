"""Segmentation of images: one prompt on each, or everything in each, written in the formats that others read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etam_edge.errors import InputError
from etam_edge.workflows.progress import ProgressCallback, Stage

if TYPE_CHECKING:
    from etam_edge.media.sinks.image_request import ImageOutputRequest
    from etam_edge.runtimes import EverythingOptions, FrameResult, Prompt, Segmenter

VISIBLE_SCORE = 10.0
"""Object score of every mask of an image, as of a mask prompt: it is there by definition."""


@dataclass(frozen=True)
class SegmentResult:
    """What was segmented.

    Attributes:
        images: number of images.
        masks: number of masks in all of them.
        seconds: for reading, segmenting and writing, without loading the bundle.
        files: outputs that were completed.
        shortfall: what of the source could not be read, as part of a sentence; "" where nothing is missing.
    """

    images: int
    masks: int
    seconds: float
    files: list[Path] = field(default_factory=list)
    shortfall: str = ""


def segment(
    segmenter: Segmenter,
    images: str | os.PathLike[str],
    outputs: ImageOutputRequest,
    prompts: Sequence[Prompt] | None = None,
    everything: EverythingOptions | None = None,
    *,
    prompt_files: Sequence[Path] = (),
    max_images: int | None = None,
    progress: ProgressCallback | None = None,
) -> SegmentResult:
    """Segment images and write what was asked for.

    Masks are numbered from 1 on each image, large ones first, so that small ones are on top where they overlap.

    Args:
        segmenter: a loaded bundle.
        images: an image file, a folder of images, or anything else that `open_source` reads.
        outputs: what to write.
        prompts: objects to segment on every image, one mask each: the best alternative for one click, else the single
            mask.
        everything: options of everything mode, in place of prompts.
        prompt_files: files that the prompts were read from, which must not be overwritten.
        max_images: stop after this many.
        progress: told of the stage "segment".

    Raises:
        InputError: an image, a prompt or an output cannot be used, or both or none of `prompts` and `everything` were
            given. Outputs are completed with the images before.
        EtamError: a graph failed.
    """
    from etam_edge.media.sources import IMAGE_SUFFIXES, open_source
    from etam_edge.media.sources.image_file import ImageFile

    if (prompts is None) == (everything is None):
        raise InputError("give either prompts or `everything`")
    path = Path(images)
    single = path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    frames = ImageFile(path) if single else open_source(os.fspath(images))
    outputs.check(frames.path, prompt_files, range(1, 1 + len(prompts or ())))
    if frames.path is not None:
        outputs.check_image(frames.path)
    total = min((n for n in (frames.length, max_images) if n is not None), default=None)
    stage = Stage(progress, "segment", total, "image")
    begin = time.perf_counter()
    count = masks = 0
    folder = path if path.is_dir() else path.parent if single else None
    reading = iter(frames)
    with outputs.open(frames.frames_per_second, frames.frame_shape, source=folder) as sinks:
        while count != max_images and (frame := next(reading, None)) is not None:
            try:
                segmenter.set_image(frame.pixels)
                result = (
                    prompted(segmenter, prompts, count)
                    if prompts is not None
                    else proposed(segmenter, everything, count)
                )
            except InputError as error:
                raise InputError(f"{frame.file_name}: {error}") from error
            sinks.write(frame, result)
            count, masks = count + 1, masks + len(result)
            stage.step(frame.file_name)
    if not count:
        raise InputError(f"{images} holds no image; check that it is not empty")
    ending = frames.ending
    shortfall = "" if ending is None else ending.shortfall()
    return SegmentResult(count, masks, time.perf_counter() - begin, sinks.kept, shortfall)


def prompted(segmenter: Segmenter, prompts: Sequence[Prompt], index: int = 0) -> FrameResult:
    """The masks of prompts on the image that is set: for one click the best of three, else the single mask.

    Args:
        segmenter: with an image.
        prompts: on it; object 1 is the first.
        index: of the image, for the result.

    Raises:
        InputError: a prompt does not fit the image.
        EtamError: a graph failed.
    """
    import numpy as np

    clicks = [_is_one_click(prompt) for prompt in prompts]
    masks: list[np.ndarray] = [np.empty(0)] * len(prompts)
    ious = np.zeros(len(prompts), dtype=np.float32)
    for multimask in (True, False):
        rows = [row for row, one in enumerate(clicks) if one is multimask]
        found = segmenter.predict_many([prompts[row] for row in rows], multimask)
        for row, prediction in zip(rows, found, strict=True):
            masks[row], ious[row] = prediction.masks[prediction.best], prediction.ious[prediction.best]
    return _result(masks, list(ious), index, _shape(segmenter))


def proposed(segmenter: Segmenter, options: EverythingOptions | None, index: int = 0) -> FrameResult:
    """Everything in the image that is set, large masks first.

    Args:
        segmenter: with an image.
        options: of everything mode; None for the defaults.
        index: of the image, for the result.

    Raises:
        InputError: an option does not fit the image.
        EtamError: a graph failed.
    """
    found = sorted(segmenter.everything(options=options), key=lambda one: -one.area)
    shape = found[0].shape if found else _shape(segmenter)
    return _result([one.mask for one in found], [one.predicted_iou for one in found], index, shape)


def _shape(segmenter: Segmenter) -> tuple[int, int]:
    image = segmenter.image
    return (0, 0) if image is None else (image.shape[0], image.shape[1])


def _is_one_click(prompt: Prompt) -> bool:
    return prompt.box is None and prompt.mask is None and prompt.points is not None and len(prompt.points) == 1


def _result(masks: Sequence, ious: Sequence[float], index: int, shape: tuple[int, int]) -> FrameResult:
    import numpy as np

    from etam_edge.runtimes import FrameResult

    count = len(masks)
    return FrameResult(
        frame_index=index,
        object_ids=tuple(range(1, count + 1)),
        masks=np.stack(masks) if count else np.zeros((0, *shape), dtype=bool),
        mask_logits=np.zeros((count, 0, 0), dtype=np.float32),
        object_scores=np.full(count, VISIBLE_SCORE, dtype=np.float32),
        ious=np.array(ious, dtype=np.float32),
        mask_choices=np.zeros(count, dtype=np.int32),
    )
