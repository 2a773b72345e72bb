"""Two bundles compared over single images: each object is prompted by a click and by its box, and its mask measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etam_edge.evaluation.metrics import boundary_measure, region_similarity
from etam_edge.media.image_sets import LabelledImage
from etam_edge.runtimes import Prompt, Segmenter
from etam_edge.runtimes.types import mask_box

CLICK, BOX = "click", "box"
KINDS = (CLICK, BOX)
WORST = 5
"""Number of objects that are listed as the worst."""


@dataclass(frozen=True)
class ObjectFigures:
    """Figures of one object with one kind of prompt.

    Attributes:
        image: name of the image's file.
        number: of the object.
        kind: "click" or "box".
        iou, reference_iou: of the candidate's and the reference's mask with the ground truth.
        boundary, reference_boundary: boundary measure F of both.
        agreement: IoU of the candidate's mask with the reference's.
    """

    image: str
    number: int
    kind: str
    iou: float
    reference_iou: float
    boundary: float
    reference_boundary: float
    agreement: float

    @property
    def drop(self) -> float:
        """Points that the candidate lost: the mean of IoU and F, times 100."""
        return 50 * (self.reference_iou + self.reference_boundary - self.iou - self.boundary)


@dataclass(frozen=True)
class Means:
    """Means over the objects of one kind of prompt, or of both.

    Attributes:
        objects: number of objects.
        iou, reference_iou, boundary, reference_boundary, agreement: means of `ObjectFigures`, 0 to 1.
        worst_agreement: smallest IoU of the two bundles' masks.
        drop: points of the mean of IoU and F that were lost.
    """

    objects: int
    iou: float
    reference_iou: float
    boundary: float
    reference_boundary: float
    agreement: float
    worst_agreement: float
    drop: float

    @classmethod
    def of(cls, figures: Sequence[ObjectFigures]) -> Means:
        names = ("iou", "reference_iou", "boundary", "reference_boundary", "agreement", "drop")
        values = {name: float(np.mean([getattr(one, name) for one in figures])) for name in names}
        return cls(objects=len(figures), worst_agreement=min(one.agreement for one in figures), **values)


@dataclass(frozen=True)
class ImageComparison:
    """All figures of a comparison over images.

    Attributes:
        images: number of images.
        figures: of every object and kind of prompt.
        seconds: median time of each side for an image: encoding, all clicks in one batch, all boxes in one batch.
    """

    images: int
    figures: list[ObjectFigures]
    seconds: dict[str, float] = field(default_factory=dict)

    def means(self, kind: str | None = None) -> Means:
        """Means over the objects of one kind of prompt, or over all."""
        return Means.of([one for one in self.figures if kind in (None, one.kind)])

    def worst(self) -> list[ObjectFigures]:
        """The objects on which the candidate lost most, at most five."""
        return sorted(self.figures, key=lambda one: -one.drop)[:WORST]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "means": {kind or "all": vars(self.means(kind)) for kind in (*KINDS, None)},
            "objects": [vars(one) for one in self.figures],
        }


def compare_images(
    candidate: Segmenter,
    reference: Segmenter,
    images: Sequence[LabelledImage],
    step: Callable[[str], None] | None = None,
) -> ImageComparison:
    """Segment every object of every image with both bundles, and measure the masks.

    Args:
        candidate, reference: loaded bundles.
        images: at least one, with objects.
        step: told of every image that is done.

    Raises:
        InputError: an image or an annotation cannot be used.
        EtamError: a graph failed.
    """
    figures: list[ObjectFigures] = []
    seconds: dict[str, list[float]] = {"candidate": [], "reference": []}
    for number, image in enumerate(images):
        pixels, truth = image.read()
        sides = [("candidate", candidate), ("reference", reference)]
        # Interleaved: whoever is second finds the caches warm.
        found = {}
        for name, segmenter in sides if number % 2 else sides[::-1]:
            begin = time.perf_counter()
            found[name] = _masks(segmenter, pixels, truth)
            seconds[name].append(time.perf_counter() - begin)
        for (kind, object_number), mask in found["candidate"].items():
            other, wanted = found["reference"][kind, object_number], truth[object_number]
            figures.append(
                ObjectFigures(
                    image.file.name,
                    object_number,
                    kind,
                    region_similarity(mask, wanted),
                    region_similarity(other, wanted),
                    boundary_measure(mask, wanted),
                    boundary_measure(other, wanted),
                    region_similarity(mask, other),
                )
            )
        if step is not None:
            step(image.file.name)
    return ImageComparison(len(images), figures, {name: float(np.median(each)) for name, each in seconds.items()})


def innermost(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of the centre of the pixel of a mask that is farthest from its border, bool (H, W) with a pixel."""
    import cv2

    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def _masks(segmenter: Segmenter, pixels: np.ndarray, truth: dict[int, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
    segmenter.set_image(pixels)
    clicks = [Prompt(points=[innermost(mask)], labels=[1]) for mask in truth.values()]
    boxes = np.array([mask_box(mask) for mask in truth.values()], dtype=np.float32).reshape(-1, 4)
    answers = {CLICK: segmenter.predict_many(clicks, multimask=True), BOX: segmenter.predict_many(boxes)}
    return {
        (kind, number): answer.masks[answer.best]
        for kind in KINDS
        for number, answer in zip(truth, answers[kind], strict=True)
    }
