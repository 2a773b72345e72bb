"""A camera, read in a thread, of which only the newest frame is kept."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Arrival:
    """A frame.

    Attributes:
        pixels: uint8 (H, W, 3) RGB.
        number: counts all frames that the camera gave, from 0.
        time: of its arrival, in seconds of `time.perf_counter`.
    """

    pixels: np.ndarray
    number: int
    time: float


class NewestFrame:
    """Reads a camera, or a video file at the file's own speed, until closed. Use it in a `with` block.

    Args:
        camera: number of a camera, or path of a video file.
    """

    def __init__(self, camera: str) -> None:
        self._capture = cv2.VideoCapture(int(camera) if camera.isdecimal() else camera)
        if not self._capture.isOpened():
            raise SystemExit(f"camera {camera} does not open; check that it is there and that no other program uses it")
        # A camera sets the pace itself; a file would be read as fast as the disk allows.
        self._period = 0.0 if camera.isdecimal() else 1.0 / (self._capture.get(cv2.CAP_PROP_FPS) or 30.0)
        self._changed = threading.Condition()
        self._newest: Arrival | None = None
        self._taken = -1
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> NewestFrame:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._thread.join()
        self._capture.release()

    def take(self, timeout: float = 5.0) -> Arrival | None:
        """The newest frame, each at most once; waits for the next one. None when the camera has ended.

        Raises:
            TimeoutError: no frame arrived in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._fresh(), timeout):
                raise TimeoutError(f"the camera gave no frame for {timeout:g} seconds")
            newest = self._newest
            if newest is None or not self._fresh():
                return None
            self._taken = newest.number
            return newest

    def _fresh(self) -> bool:
        return self._newest is not None and self._newest.number > self._taken

    def _read(self) -> None:
        number, start = 0, time.perf_counter()
        while not self._ended:
            read, image = self._capture.read()
            if not read:
                break
            if self._period:
                time.sleep(max(0.0, start + number * self._period - time.perf_counter()))
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            with self._changed:
                self._newest = Arrival(pixels, number, time.perf_counter())
                self._changed.notify()
            number += 1
        with self._changed:
            self._ended = True
            self._changed.notify()
