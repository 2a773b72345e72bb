"""Frames as users give them, checked and converted to uint8 (H, W, 3) RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from etam_edge.errors import InputError, shown

MAX_FRAME_PIXELS = 1 << 28
"""Pixels of a frame: more than any camera has, and few enough that its mask as numbers takes 1 GiB."""


def as_frame(frame: np.ndarray | Image.Image, where: str) -> np.ndarray:
    """The frame as uint8 (H, W, 3) RGB; an array of this kind is returned as it is.

    Args:
        frame: uint8 (H, W, 3) RGB, or a PIL image of any mode, which is converted to RGB.
        where: names the frame in error messages, for example "frame 12".

    Raises:
        InputError: the frame has another type, shape or dtype.
    """
    if isinstance(frame, Image.Image):
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise InputError(f"{where} has {frame.width} x {frame.height} pixels, more than {MAX_FRAME_PIXELS}")
        try:
            frame = np.asarray(frame.convert("RGB"))
        except Exception as error:  # An image that was opened is decoded only now; Pillow's plugins raise anything.
            raise InputError(f"{where} is an image that cannot be decoded ({shown(error)}); give another") from error
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"{where} is a {type(frame).__name__}; give a NumPy array, uint8 (H, W, 3) RGB, or a PIL image"
        )
    if frame.dtype != np.uint8:
        raise InputError(f"{where} has type {frame.dtype}; give uint8 RGB, 0 to 255")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(f"{where} has shape {frame.shape}; give (H, W, 3) RGB")
    if frame.size > 3 * MAX_FRAME_PIXELS:
        raise InputError(f"{where} has shape {frame.shape}, more than {MAX_FRAME_PIXELS} pixels; give a smaller frame")
    if isinstance(frame, np.ma.MaskedArray):
        raise InputError(f"{where} is a masked array, whose masked pixels have no colour; give a plain array")
    return frame
