"""Prompts, checked and converted to the inputs of the `prompt` graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from etam_edge.errors import InputError, shown
from etam_edge.runtimes.resample import resize_bilinear
from etam_edge.runtimes.types import Prompt
from etam_edge.spec import EMPTY_POINT, GraphSizes, ModelSpec

PADDING_LABEL = -1
"""Label of a point that is not a click, as in the SAM prompt encoder."""
MAX_ID = (1 << 63) - 1
BOX_LABELS = (2, 3)
"""Labels of a box's upper left and lower right corner, which are encoded as two points."""


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """One object's prompt, scaled to the model's image size S.

    Attributes:
        points: float32 (max_points, 2) as (x, y) in pixels of the (S, S) image.
        labels: int32 (max_points,), EMPTY_POINT in unused places.
        count: number of points, a box's corners included.
        mask: uint8 (S, S) of 0 and 1, or None for points and boxes.
        mask_logits: float32 (S/4, S/4), the mask as logits of +-10, or None.
    """

    points: np.ndarray
    labels: np.ndarray
    count: int
    mask: np.ndarray | None
    mask_logits: np.ndarray | None


def prepare(
    prompt: Prompt, object_id: object, frame_shape: tuple[int, int], spec: ModelSpec, sizes: GraphSizes
) -> PreparedPrompt:
    """Check one prompt against the size of its frame, and scale it to the model's.

    Args:
        prompt: in pixels of the frame.
        object_id: for error messages.
        frame_shape: (H, W).
        spec: model, for its image size.
        sizes: of the graphs, for the number of points.

    Raises:
        InputError: the prompt cannot be used; the message names the object and what is wrong.
    """
    return prepare_named(prompt, f"prompt of object {object_id}", frame_shape, spec, sizes)


def prepare_named(
    prompt: Prompt, where: str, frame_shape: tuple[int, int], spec: ModelSpec, sizes: GraphSizes
) -> PreparedPrompt:
    """As `prepare`, for a prompt that error messages call `where`."""
    if not isinstance(prompt, Prompt):
        raise InputError(f"{where} is a {type(prompt).__name__}; give an etam_edge.Prompt")
    if prompt.mask is not None:
        if prompt.points is not None or prompt.labels is not None or prompt.box is not None:
            raise InputError(f"{where} has a mask and points or a box; give the mask alone")
        return _prepare_mask(prompt.mask, where, frame_shape, spec, sizes)
    points, labels = _points(prompt, where, frame_shape)
    if prompt.box is not None:
        points = np.concatenate((_box(prompt.box, where, frame_shape), points))
        labels = np.concatenate((np.array(BOX_LABELS, dtype=np.int32), labels))
    if not len(points):
        raise InputError(f"{where} is empty; give points with labels, a box or a mask")
    if len(points) > sizes.max_points:
        raise InputError(
            f"{where} has {len(points)} points (a box counts two) and this bundle takes {sizes.max_points}; "
            "give fewer, or export it with a larger `max_points`"
        )
    height, width = frame_shape
    points = points.astype(np.float32)
    scaled = points / np.array([width, height], dtype=np.float32) * np.float32(spec.image_size)
    return _padded(scaled, labels, sizes, None, None)


def check_object_id(object_id: Any) -> int:
    """The id as an int.

    Raises:
        InputError: the id is not a whole number, or needs more than 64 bits, which result formats do not hold.
    """
    if isinstance(object_id, bool | np.bool_) or not isinstance(object_id, int | np.integer):
        raise InputError(f"object id {shown(object_id)} is not a whole number; use numbers such as 1, 2, 3")
    if not -MAX_ID - 1 <= object_id <= MAX_ID:
        raise InputError(f"object id {shown(object_id)} needs more than 64 bits; use numbers such as 1, 2, 3")
    return int(object_id)


def _padded(
    points: np.ndarray, labels: np.ndarray, sizes: GraphSizes, mask: np.ndarray | None, logits: np.ndarray | None
) -> PreparedPrompt:
    all_points = np.zeros((sizes.max_points, 2), dtype=np.float32)
    all_labels = np.full(sizes.max_points, EMPTY_POINT, dtype=np.int32)
    all_points[: len(points)], all_labels[: len(labels)] = points, labels
    return PreparedPrompt(all_points, all_labels, len(points), mask, logits)


def _array(values: object, what: str, shape_text: str) -> np.ndarray:
    """Numbers as an array: not text, which NumPy would convert, nor complex numbers, nor masked or nested ones.

    Raises:
        InputError: they are something else.
    """
    try:
        array = np.asarray(values)
    except Exception:  # NumPy asks the value for its content, and a class of the user's may raise anything.
        array = np.array([None])
    # An empty list has no type of its own.
    is_empty = array.size == 0 and array.dtype.kind != "O"
    if isinstance(values, np.ma.MaskedArray) or (array.dtype.kind not in "iuf" and not is_empty):
        raise InputError(f"{what} are not numbers of shape {shape_text}")
    return np.zeros(array.shape) if is_empty else array


def _numbers(values: object, shape_text: str, where: str, what: str) -> np.ndarray:
    """Coordinates, float64."""
    array = _array(values, f"{what} of the {where}", shape_text).astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{what} of the {where} hold NaN or infinity; give pixel coordinates")
    return array


def _points(prompt: Prompt, where: str, frame_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    if (prompt.points is None) != (prompt.labels is None):
        given, missing = ("labels", "points") if prompt.points is None else ("points", "labels")
        raise InputError(f"{where} has {given} without {missing}; give one label (1 on the object, 0 off it) a point")
    if prompt.points is None:
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int32)
    points = _numbers(prompt.points, "(P, 2)", where, "points")
    labels = _labels(prompt.labels, where)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"points of the {where} have shape {points.shape}; give (P, 2) as [(x, y), ...]")
    if labels.shape != points.shape[:1]:
        raise InputError(
            f"the {where} has {len(points)} points and labels of shape {labels.shape}; give one label a point"
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise InputError(f"labels of the {where} are {shown(labels.tolist())}; give 1 for on the object, 0 for off it")
    height, width = frame_shape
    outside = (points < 0).any(axis=1) | (points >= (width, height)).any(axis=1)
    if outside.any():
        x, y = points[outside][0]
        raise InputError(
            f"point ({x:g}, {y:g}) of the {where} lies outside the frame, which is {width} x {height} pixels"
        )
    return points, labels.astype(np.int32)


def _labels(labels: object, where: str) -> np.ndarray:
    """Labels as an array of numbers or of bool, in any shape."""
    if isinstance(labels, np.ndarray) and labels.dtype == np.bool_:
        labels = labels.astype(np.int32)
    if isinstance(labels, list | tuple) and all(isinstance(one, bool | np.bool_) for one in labels):
        labels = [int(one) for one in labels]
    return _array(labels, f"labels of the {where}", "(P,)")


def _box(box: object, where: str, frame_shape: tuple[int, int]) -> np.ndarray:
    corners = _numbers(box, "(4,)", where, "box corners")
    if corners.shape == (1, 4):  # a detector's array of one box
        corners = corners[0]
    if corners.shape != (4,):
        raise InputError(f"box of the {where} has shape {corners.shape}; give (x0, y0, x1, y1)")
    x0, y0, x1, y1 = corners
    text = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) of the {where}"
    if x0 >= x1 or y0 >= y1:
        fault = "has its corners swapped" if x0 > x1 or y0 > y1 else "is empty"
        raise InputError(f"{text} {fault}; give the upper left corner first: x0 < x1 and y0 < y1")
    height, width = frame_shape
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise InputError(f"{text} lies outside the frame, which is {width} x {height} pixels")
    # Boxes of detectors often exceed the frame slightly; that part is cut off.
    return corners.reshape(2, 2).clip(0, (width, height))


def _as_bool(mask: object, where: str) -> np.ndarray:
    """The mask as bool: of bool, or of uint8 with the values 0 and 1 or 0 and 255."""
    if not isinstance(mask, np.ndarray):
        raise InputError(f"mask of the {where} is a {type(mask).__name__}; give a bool array (H, W)")
    if isinstance(mask, np.ma.MaskedArray):
        raise InputError(f"mask of the {where} is a masked array; give a bool array, for example mask.filled(False)")
    if mask.dtype == np.uint8:
        values = np.unique(mask)
        if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
            raise InputError(
                f"mask of the {where} is uint8 with {len(values)} values from {values[0]} to {values[-1]}; give a bool "
                "array, for example mask > 0, or uint8 with the values 0 and 1 or 0 and 255"
            )
    elif mask.dtype != np.bool_:
        raise InputError(f"mask of the {where} is {mask.dtype}; give a bool array, for example mask > 0")
    return mask.astype(bool, copy=False)


def _prepare_mask(
    mask: object, where: str, frame_shape: tuple[int, int], spec: ModelSpec, sizes: GraphSizes
) -> PreparedPrompt:
    mask = _as_bool(mask, where)
    if mask.shape != frame_shape:
        raise InputError(f"mask of the {where} has shape {mask.shape} and the frame is {frame_shape}; give them alike")
    if not mask.any():
        raise InputError(f"mask of the {where} is empty; mark at least one pixel of the object")
    size = spec.image_size
    # As in the reference: resized to the model's size with antialiasing, then thresholded at one half.
    full = resize_bilinear(mask.astype(np.float32), size, size, antialias=True) >= 0.5
    if not full.any():
        raise InputError(
            f"mask of the {where} marks {int(mask.sum())} pixels, too few to remain at {size} x {size}; "
            "mark more, or give a point"
        )
    logits = resize_bilinear(full * np.float32(20) - np.float32(10), spec.mask_size, spec.mask_size, antialias=True)
    # A mask prompt has no click; as in the reference, a single padding point is encoded instead.
    no_point = np.zeros((1, 2), dtype=np.float32), np.array([PADDING_LABEL], dtype=np.int32)
    return _padded(*no_point, sizes, full.astype(np.uint8), logits)
