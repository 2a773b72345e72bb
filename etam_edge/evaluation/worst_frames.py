"""Images of the frames on which the candidate's mask differs most from the reference's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from etam_edge.errors import InputError
from etam_edge.evaluation.check import Check
from etam_edge.evaluation.runs import Run, need_opencv
from etam_edge.evaluation.summary import WorstFrame
from etam_edge.media.datasets import Clip
from etam_edge.media.overlay import draw_masks

MAX_CLIPS = 4
PANEL_WIDTH = 480
"""Pixels."""
QUALITY = 85
ONLY_REFERENCE, ONLY_CANDIDATE, BOTH = (74, 144, 217), (240, 140, 40), (235, 235, 235)
"""Colours of the difference image, RGB."""


@dataclass(frozen=True, eq=False)
class Panels:
    """Images of one frame.

    Attributes:
        worst: the frame, the object and the IoU of both masks.
        pictures: JPEG files by title: "reference", "candidate", "difference, object N", and "ground truth" if there is
            one.
    """

    worst: WorstFrame
    pictures: dict[str, bytes]


def worst_frames(check: Check, clips: Sequence[Clip]) -> list[Panels]:
    """Images of the worst frame of each clip, for the MAX_CLIPS worst clips, the worst first.

    Raises:
        InputError: a frame that was tracked can no longer be read.
        RuntimeUnavailableError: OpenCV is not installed.
    """
    cv2 = need_opencv()
    rows = zip(check.comparison.clips, clips, check.candidate, check.reference, strict=True)
    ranked = sorted(rows, key=lambda row: row[0].figures.worst.iou)[:MAX_CLIPS]
    return [
        Panels(summary.figures.worst, dict(_pictures(cv2, clip, ours, theirs, summary.figures.worst)))
        for summary, clip, ours, theirs in ranked
    ]


def _pictures(cv2: Any, clip: Clip, ours: Run, theirs: Run, worst: WorstFrame) -> Iterator[tuple[str, bytes]]:
    frame = next(islice(clip.frames, worst.frame, None), None)
    if frame is None:
        raise InputError(f"clip {clip.name} no longer has frame {worst.frame}; run the check again")
    pixels = frame.pixels
    yield "reference", _jpeg(draw_masks(cv2, pixels, theirs.object_ids, theirs.masks(worst.frame)))
    yield "candidate", _jpeg(draw_masks(cv2, pixels, ours.object_ids, ours.masks(worst.frame)))
    column = ours.object_ids.index(worst.object_id)
    mine, other = ours.masks(worst.frame)[column], theirs.masks(worst.frame)[column]
    yield f"difference, object {worst.object_id}", _jpeg(_difference(pixels, mine, other))
    truth = clip.truth.at(worst.frame, ours.frame_shape) if clip.truth is not None else None
    if truth is not None:
        yield "ground truth", _jpeg(draw_masks(cv2, pixels, list(truth.objects), list(truth.objects.values())))


def _difference(pixels: np.ndarray, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both masks over the frame in dark grey: pixels of one mask only and of both have a colour each.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        mine, other: bool (H, W).

    Returns:
        uint8 (H, W, 3) RGB.
    """
    grey = (pixels.mean(axis=2, keepdims=True) * 0.4).astype(np.uint8)
    drawn = np.repeat(grey, 3, axis=2)
    drawn[mine & other] = (drawn[mine & other] // 2) + np.array(BOTH, dtype=np.uint8) // 2
    drawn[other & ~mine] = ONLY_REFERENCE
    drawn[mine & ~other] = ONLY_CANDIDATE
    return drawn


def _jpeg(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    # The browser enlarges smaller images.
    if image.width > PANEL_WIDTH:
        image = image.resize((PANEL_WIDTH, max(1, round(image.height * PANEL_WIDTH / image.width))))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
