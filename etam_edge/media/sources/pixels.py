"""Raw pixels of the usual formats as RGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from etam_edge.errors import InputError
from etam_edge.media.sources.pyav import import_pyav


def _packed(channels: int, order: slice) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: rows.reshape(len(rows), -1, channels)[..., order].copy()


def _grey(rows: np.ndarray) -> np.ndarray:
    return np.repeat(rows[..., None], 3, axis=2)


_BY_NUMPY: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "rgb24": (3, _packed(3, slice(None))),
    "bgr24": (3, _packed(3, slice(None, None, -1))),
    "rgb0": (4, _packed(4, slice(0, 3))),
    "bgr0": (4, _packed(4, slice(2, None, -1))),
    "gray": (1, _grey),
}
"""Bytes of a pixel, and the conversion of rows (H, bytes of a row) to (H, W, 3), by FFmpeg's name of the format."""


class PixelConverter:
    """Converts frames of one format and size to RGB.

    Args:
        name: FFmpeg's name of the format: rgb24, bgr24, rgb0, bgr0, gray, yuyv422, nv12 or yuv420p.
        frame_size: (H, W) in pixels.

    Attributes:
        frame_size: (H, W) in pixels.
        size: number of bytes of a frame without padding.

    Raises:
        InputError: a side is odd, and the format halves it.
        RuntimeUnavailableError: the format needs PyAV, which is not installed.
    """

    def __init__(self, name: str, frame_size: tuple[int, int]) -> None:
        self.name = name
        self.frame_size = frame_size
        self._height, self._width = frame_size
        if name in _BY_NUMPY:
            self.size = self._height * self._width * _BY_NUMPY[name][0]
            return
        halved = (self._width,) if name == "yuyv422" else (self._width, self._height)
        if any(side % 2 for side in halved):
            raise InputError(f"frames of {self._width} x {self._height} pixels cannot be {name}; give even sides")
        self.size = self._height * self._width * 2 if name == "yuyv422" else self._height * self._width * 3 // 2
        self._av = import_pyav()
        self._reformatter = self._av.video.reformatter.VideoReformatter()

    def rgb(self, data: np.ndarray) -> np.ndarray:
        """A frame, uint8 (size,), as uint8 (H, W, 3) RGB, in memory of its own."""
        if self.name in _BY_NUMPY:
            return _BY_NUMPY[self.name][1](data.reshape(self._height, -1))
        shape = (self._height, self._width, 2) if self.name == "yuyv422" else (self._height * 3 // 2, self._width)
        frame = self._av.VideoFrame.from_ndarray(data.reshape(shape), format=self.name)
        image: np.ndarray = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return image
