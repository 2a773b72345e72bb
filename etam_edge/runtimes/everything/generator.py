"""The loop of everything mode: crops, batches of points, and the selection of masks in the reference's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from etam_edge.runtimes.everything.grid import Crop, crops, inside, point_grids
from etam_edge.runtimes.everything.options import EverythingOptions
from etam_edge.runtimes.everything.proposal import Proposal
from etam_edge.runtimes.everything.selection import cut_off, inclusive_box, without_doubles
from etam_edge.runtimes.holes import clean
from etam_edge.runtimes.resample import resize_bilinear
from etam_edge.runtimes.rle import runs_of
from etam_edge.runtimes.workspace import LOGIT_LIMIT

CLICK = 1
"""Label of a point on the object."""


class Decode(Protocol):
    """Decodes N prompts on the image that was encoded last."""

    def __call__(
        self, points: np.ndarray, labels: np.ndarray, mask_logits: np.ndarray | None, multimask: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            points: float32 (N, P, 2), in shares of the sides times the image size of the model.
            labels: int32 (N, P).
            mask_logits: float32 (N, S/4, S/4) or None.
            multimask: three masks each, or one.

        Returns:
            logits (N, M, S/4, S/4) and predicted IoUs (N, M).
        """


@dataclass(frozen=True, eq=False)
class _Found:
    """A mask before the selection among all of a crop.

    Attributes:
        box: with (x1, y1) its last pixel, in pixels of the image.
        proposal: what it becomes.
    """

    box: tuple[int, int, int, int]
    proposal: Proposal


def generate(
    encode: Callable[[np.ndarray], None],
    decode: Decode,
    image_size: int,
    image: np.ndarray,
    options: EverythingOptions,
    progress: Callable[[int, int], None] | None,
) -> list[Proposal]:
    """Proposals for an image whose features were computed already.

    Args:
        encode: computes the features of a crop, uint8 (h, w, 3).
        decode: of prompts on it.
        image_size: S of the model.
        image: uint8 (H, W, 3).
        options: what to look for.
        progress: called with the points decoded and the number of all points, after every batch.

    Raises:
        InputError: the region does not fit the image.
        RuntimeUnavailableError: small regions are to be removed, and OpenCV is not installed.
        EtamError: a graph failed.
    """
    shape = (image.shape[0], image.shape[1])
    grids = point_grids(options)
    work = []
    for crop, layer in crops(shape, options.crop_n_layers, options.crop_overlap_ratio):
        points = grids[layer] * crop.shape[::-1]
        places = points + np.array(crop[:2])
        work.append((crop, points[inside(places, options.region, shape)]))
    total = sum(len(points) for _, points in work)
    done = 0
    found: list[_Found] = []
    for number, (crop, points) in enumerate(work):
        if number and len(points):
            encode(np.ascontiguousarray(image[crop.y0 : crop.y1, crop.x0 : crop.x1]))
        of_crop: list[_Found] = []
        for start in range(0, len(points), options.points_per_batch):
            batch = points[start : start + options.points_per_batch]
            of_crop += _of_batch(decode, image_size, batch, crop, shape, options)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        found += _select(of_crop, [one.proposal.predicted_iou for one in of_crop], options.box_nms_thresh)
    if len(work) > 1:
        sizes = [float(np.prod(Crop(*one.proposal.crop_box).shape)) for one in found]
        found = _select(found, [1 / size for size in sizes], options.crop_nms_thresh)
    proposals = [one.proposal for one in found]
    if options.top_k is not None:
        proposals = sorted(proposals, key=lambda one: -one.predicted_iou)[: options.top_k]
    return proposals


def _select(found: list[_Found], scores: list[float], threshold: float) -> list[_Found]:
    kept = without_doubles(np.array([one.box for one in found]), np.array(scores), threshold)
    return [found[index] for index in kept]


def _of_batch(
    decode: Decode,
    image_size: int,
    points: np.ndarray,
    crop: Crop,
    shape: tuple[int, int],
    options: EverythingOptions,
) -> Iterator[_Found]:
    """The masks of a batch of points, (N, 2) in pixels of the crop, that pass the thresholds."""
    scaled = (points / crop.shape[::-1] * image_size).astype(np.float32)[:, None]
    labels = np.full((len(points), 1), CLICK, dtype=np.int32)
    logits, ious = decode(scaled, labels, None, options.multimask_output)
    masks = logits.shape[1]
    logits, ious = logits.reshape(-1, *logits.shape[2:]), ious.reshape(-1)
    if options.use_m2m:
        hints = logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        logits, ious = decode(scaled.repeat(masks, axis=0), labels.repeat(masks, axis=0), hints, False)
        logits, ious = logits[:, 0], ious[:, 0]
    enlarge = _enlarging(crop.shape)
    image = Crop(0, 0, shape[1], shape[0])
    for index in np.flatnonzero(ious > options.pred_iou_thresh) if options.pred_iou_thresh else range(len(ious)):
        low = logits[index]
        if options.min_mask_region_area:
            low = clean(low, options.min_mask_region_area)
        full = enlarge(low)
        # Both counts also bound the mask's own, which is computed only for stable masks.
        inner = np.count_nonzero(full > options.mask_threshold + options.stability_score_offset)
        outer = np.count_nonzero(full > options.mask_threshold - options.stability_score_offset)
        score = inner / outer if outer else float("nan")
        if options.stability_score_thresh and not score >= options.stability_score_thresh:
            continue
        mask = full > options.mask_threshold
        area = int(np.count_nonzero(mask))
        x0, y0, x1, y1 = inclusive_box(mask)
        box = (x0 + crop.x0, y0 + crop.y0, x1 + crop.x0, y1 + crop.y0)
        if cut_off(box, crop, image) or area > options.max_area * shape[0] * shape[1]:
            continue
        point = points[index // masks]
        yield _Found(
            box,
            Proposal(
                shape=shape,
                runs=runs_of(_placed(mask, crop, shape)),
                box=(box[0], box[1], box[2] + 1, box[3] + 1) if area else (0, 0, 0, 0),
                area=area,
                predicted_iou=float(ious[index]),
                stability_score=float(score),
                point=(float(point[0] + crop.x0), float(point[1] + crop.y0)),
                crop_box=crop,
            ),
        )


def _placed(mask: np.ndarray, crop: Crop, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a crop in the whole image, bool (H, W)."""
    if mask.shape == shape:
        return mask
    placed = np.zeros(shape, dtype=bool)
    placed[crop.y0 : crop.y1, crop.x0 : crop.x1] = mask
    return placed


def _enlarging(shape: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Enlarges logits (S/4, S/4) to (H, W), bilinearly: with OpenCV where it is installed, several times as fast.

    Results of both ways differ by rounding errors only.
    """
    try:
        import cv2
    except ImportError:
        return lambda logits: resize_bilinear(logits, *shape)
    return lambda logits: np.asarray(cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_LINEAR))
