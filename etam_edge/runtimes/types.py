"""Input and output of a session: `Prompt`, `FrameResult` and its view of one object, `ObjectResult`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from etam_edge.errors import RuntimeUnavailableError
from etam_edge.runtimes.rle import encode_rle

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """What to segment as one object on one frame. Coordinates are pixels of that frame.

    Give `points` with `labels`, or `box`, or both of these together, or `mask` alone. The prompt is checked against the
    frame when it is used, by `Session.track` and `Session.refine`.

    Attributes:
        points: (P, 2) as (x, y), 0 <= x < W, 0 <= y < H.
        labels: (P,), 1 for a point on the object, 0 for one off it.
        box: (x0, y0, x1, y1) with x0 < x1 and y0 < y1; the part outside the frame is cut off. An array (1, 4), as
            detectors give it, is one box, too.
        mask: (H, W), true on the object: bool, or uint8 with the values 0 and 1 or 0 and 255.
    """

    points: Sequence[Sequence[float]] | np.ndarray | None = None
    labels: Sequence[int] | np.ndarray | None = None
    box: Sequence[float] | np.ndarray | None = None
    mask: np.ndarray | None = None

    def __repr__(self) -> str:
        fields = {name: value for name, value in vars(self).items() if value is not None}
        if isinstance(self.mask, np.ndarray):
            fields["mask"] = _brief(self.mask)
        return f"Prompt({', '.join(f'{name}={value}' for name, value in fields.items())})"


@dataclass(frozen=True, eq=False, repr=False)
class FrameResult:
    """The result for one frame: N objects, in the order in which they were first prompted.

    `len(result)` is N, `result[object_id]` the part of one object, `object_id in result` whether it is tracked, and
    iterating gives the ids.

    Attributes:
        frame_index: 0 for the first frame of the session.
        object_ids: the N ids.
        masks: bool (N, H, W) at frame size.
        mask_logits: float32 (N, S/4, S/4) for a model of image size S; -1024 everywhere for an object that is not
            visible.
        object_scores: float32 (N,), logits; an object is visible where its score is above 0.
        ious: float32 (N,), the IoU that the model predicts for its own mask.
        mask_choices: int32 (N,), which of the decoder's masks was selected: 0 the single mask, 1 to 3 one of the three
            alternatives, -1 a mask prompt, which is used as it is.
    """

    frame_index: int
    object_ids: tuple[int, ...]
    masks: np.ndarray
    mask_logits: np.ndarray
    object_scores: np.ndarray
    ious: np.ndarray
    mask_choices: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """bool (N,): whether each object is visible, by its score."""
        visible: np.ndarray = self.object_scores > 0
        return visible

    @cached_property
    def boxes(self) -> np.ndarray:
        """float32 (N, 4): the box (x0, y0, x1, y1) around each mask, in pixels; zeros for an empty mask.

        (x1, y1) is the corner beyond the last pixel: x1 - x0 is the width. Computed from `masks` on first access.
        """
        return np.array([mask_box(mask) for mask in self.masks], dtype=np.float32).reshape(-1, 4)

    @cached_property
    def areas(self) -> np.ndarray:
        """int64 (N,): pixels of each mask. Computed from `masks` on first access."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.object_ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.object_ids)

    def __contains__(self, object_id: object) -> bool:
        return object_id in self.object_ids

    def __getitem__(self, object_id: int) -> ObjectResult:
        """
        Raises:
            KeyError: the object is not in this result.
        """
        if object_id not in self.object_ids:
            known = ", ".join(map(str, self.object_ids)) or "none"
            raise KeyError(f"object {object_id!r} is not in the result of frame {self.frame_index} (objects: {known})")
        return ObjectResult(self, self.object_ids.index(object_id))

    def to_supervision(self) -> supervision.Detections:
        """All N objects as `supervision.Detections`, for its annotators and filters.

        `xyxy` are `boxes`, `mask` are `masks`, `confidence` are `ious`, `tracker_id` are the object ids, and
        `data["object_score"]` are the scores. Objects that are not visible have empty masks and are included, so that
        rows correspond; `detections[result.visible]` drops them.

        Raises:
            RuntimeUnavailableError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"to_supervision needs the package supervision, which cannot be imported ({error}); install it with: "
                "pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=self.masks,
            confidence=self.ious.copy(),
            tracker_id=np.array(self.object_ids, dtype=np.int64),
            data={"object_score": self.object_scores.copy()},
        )

    def to_coco(self, image_id: int | None = None, category_id: int = 1) -> list[dict[str, Any]]:
        """One dictionary for each of the N objects in COCO's result format, ready for `json.dumps` and pycocotools.

        Args:
            image_id: of the frame in a COCO data set; `frame_index` by default.
            category_id: of the objects.

        Returns:
            keys `image_id`, `category_id`, `segmentation` (`size` [H, W] and compressed run-length `counts`, a string),
            `bbox` [x, y, width, height], `area`, `iscrowd`, `score` (the predicted IoU), `object_id` and `object_score`
            (a logit).
        """
        return [
            {
                "image_id": self.frame_index if image_id is None else image_id,
                "category_id": category_id,
                "segmentation": {"size": list(mask.shape), "counts": encode_rle(mask)},
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "area": int(area),
                "iscrowd": 0,
                "score": float(iou),
                "object_id": object_id,
                "object_score": float(score),
            }
            for object_id, mask, (x0, y0, x1, y1), area, iou, score in zip(
                self.object_ids, self.masks, self.boxes, self.areas, self.ious, self.object_scores, strict=True
            )
        ]

    def __repr__(self) -> str:
        objects = ", ".join(
            f"{object_id}: score {score:.2f}, iou {iou:.2f}"
            for object_id, score, iou in zip(self.object_ids, self.object_scores, self.ious, strict=True)
        )
        return f"FrameResult(frame_index={self.frame_index}, masks={_brief(self.masks)}, objects={{{objects}}})"


class ObjectResult:
    """One object of a `FrameResult`; arrays are views of its rows.

    Args:
        result: of the frame.
        row: of the object.

    Attributes:
        object_id: its id.
        mask: bool (H, W) at frame size.
        logits: float32 (S/4, S/4), logits of the mask.
        score: float, logit; the object is visible where it is above 0.
        iou: float, the IoU that the model predicts for its own mask.
    """

    def __init__(self, result: FrameResult, row: int) -> None:
        self.object_id: int = result.object_ids[row]
        self.mask: np.ndarray = result.masks[row]
        self.logits: np.ndarray = result.mask_logits[row]
        self.score = float(result.object_scores[row])
        self.iou = float(result.ious[row])

    @property
    def visible(self) -> bool:
        """Whether the object is visible, by its score."""
        return self.score > 0

    @property
    def box(self) -> np.ndarray:
        """float32 (4,): (x0, y0, x1, y1) around the mask, as a row of `FrameResult.boxes`; zeros for an empty mask."""
        return np.array(mask_box(self.mask), dtype=np.float32)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    def __repr__(self) -> str:
        return f"ObjectResult(object_id={self.object_id}, score={self.score:.2f}, iou={self.iou:.2f}, area={self.area})"


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around a mask, bool (H, W), with (x1, y1) beyond its last pixel; zeros where it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _brief(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
