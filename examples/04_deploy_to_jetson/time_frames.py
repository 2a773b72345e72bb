"""Time whole frames on the device that will run them, with the memory full and a fixed number of objects."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from etam_edge import EtamError, Prompt, Tracker

WARM_UP = 20
"""Frames that are not counted: the memory is full after 17, and the first calls load kernels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--source", required=True, help="number of a camera, or a video file")
    parser.add_argument("--runtime", default="tensorrt", help="tensorrt, tensorrt-rtx or onnxruntime")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--frames", type=int, default=300, help="frames that count")
    options = parser.parse_args()

    try:
        tracker = Tracker.load(options.bundle, runtime=options.runtime)
        session = tracker.start_session(max_objects=options.objects)
        milliseconds = time_frames(session.track, options.source, options.objects, options.frames)
    except EtamError as error:
        sys.exit(f"{error}")
    if not milliseconds:
        sys.exit(f"{options.source} gave no more than {WARM_UP} frames, which are not counted; name a longer source")
    median, slow = np.percentile(milliseconds, (50, 95))
    print(f"{tracker.spec.name}, {tracker.bundle.manifest.precision}, {tracker.runtime}, objects: {options.objects}")
    rate = f"{1000 / slow:.1f} frames/s"
    print(f"{len(milliseconds)} frames: median {median:.1f} ms, 95th percentile {slow:.1f} ms ({rate})")


def time_frames(track: Callable[..., object], source: str, objects: int, frames: int) -> list[float]:
    """Milliseconds of `Session.track` for each frame after the warm-up. The camera's own time is not in them."""
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    milliseconds: list[float] = []
    index = 0
    while len(milliseconds) < frames:
        read, image = capture.read()
        if not read:
            break
        frame = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        begin = time.perf_counter()
        track(frame, prompts=prompts_on(frame.shape, objects) if index == 0 else None)
        if index >= WARM_UP:
            milliseconds.append(1000 * (time.perf_counter() - begin))
        index += 1
    capture.release()
    return milliseconds


def prompts_on(shape: tuple[int, ...], objects: int) -> dict[int, Prompt]:
    """Points spread over the frame: time does not depend on what they hit."""
    height, width = shape[:2]
    return {
        number + 1: Prompt(points=[(width * (number + 1) / (objects + 1), height / 2)], labels=[1])
        for number in range(objects)
    }


if __name__ == "__main__":
    main()
