"""Frames as users give them, checked and converted to uint8 (H, W, 3) RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from etam_edge.errors import InputError


def as_frame(frame: np.ndarray | Image.Image, where: str) -> np.ndarray:
    """The frame as uint8 (H, W, 3) RGB; an array of this kind is returned as it is.

    Args:
        frame: uint8 (H, W, 3) RGB, or a PIL image of any mode, which is converted to RGB.
        where: names the frame in error messages, for example "frame 12".

    Raises:
        InputError: the frame has another type, shape or dtype.
    """
    if isinstance(frame, Image.Image):
        frame = np.asarray(frame.convert("RGB"))
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"{where} is a {type(frame).__name__}; give a NumPy array, uint8 (H, W, 3) RGB, or a PIL image"
        )
    if frame.dtype != np.uint8:
        raise InputError(f"{where} has type {frame.dtype}; give uint8 RGB, 0 to 255")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(f"{where} has shape {frame.shape}; give (H, W, 3) RGB")
    return frame
