"""A drawn stream of frames and the prompts on it, the same to the last bit on every machine.

It is computed in integers: results of floating-point functions differ between processors and NumPy versions, and a
frame that differs would look like a difference of the runtime.
"""

from __future__ import annotations

import numpy as np

from etam_edge.runtimes import FrameResult, Prompt, Session

SHAPE = (240, 320)
"""Size (H, W) of frames, where the bundle does not have one of its own."""
FRAMES = 12
"""Frames whose answers are compared."""
SECOND_OBJECT, CORRECTION = 3, 5
"""Frames on which the second object is prompted and corrected."""


def frame(index: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A frame: a striped ball rolls over a wall of bricks towards a box.

    Args:
        index: of the frame, from 0.
        shape: (H, W) in pixels.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    row, grain = y * 10 // height, (x * 7919 + y * 104729 + x * y * 13 + index * 31) % 11
    wall = 96 + 17 * ((x * 8 // width + row) % 3) + 9 * (row % 2) + grain
    image = np.stack((wall - 8, wall, wall - 20), axis=-1)
    left, top, right, bottom = box(shape)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    wood = 120 + 30 * ((x * 40 // width) % 2) + grain
    image[inside] = np.stack((wood + 40, wood, wood - 60), axis=-1)[inside]
    centre_x, centre_y = ball(index, shape)
    radius = min(height, width) // 6
    disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
    stripe = ((x - centre_x + y - centre_y + 4 * radius) * 3 // radius) % 2
    colour = np.stack((225 - 15 * stripe, 60 + 120 * stripe, 50 + grain), axis=-1)
    image[disc] = colour[disc]
    return image.astype(np.uint8)


def ball(index: int, shape: tuple[int, int] = SHAPE) -> tuple[int, int]:
    """Centre (x, y) of the ball; it rolls to and fro in 80 frames."""
    height, width = shape
    step = index % 80
    way = step if step < 40 else 80 - step
    return width // 5 + way * width // 100, height // 2 + (index % 4) * height // 240


def box(shape: tuple[int, int] = SHAPE) -> tuple[int, int, int, int]:
    """Corners (left, top, right, bottom) of the box."""
    height, width = shape
    return width * 13 // 20, height * 7 // 20, width * 17 // 20, height * 4 // 5


def click(shape: tuple[int, int]) -> Prompt:
    """A click on the ball, on frame 0."""
    return Prompt(points=[ball(0, shape)], labels=[1])


def play(session: Session, start: int, stop: int, shape: tuple[int, int], objects: int) -> list[FrameResult]:
    """Track the frames [start:stop] of the stream: the ball from frame 0, and of two objects the box from frame 3 on,
    corrected on frame 5.

    Args:
        session: at frame `start`.
        objects: 1 or 2.
    """
    results = []
    for index in range(start, stop):
        prompts = {1: click(shape)} if index == 0 else {}
        if index == SECOND_OBJECT and objects > 1:
            prompts[2] = Prompt(box=box(shape))
        results.append(session.track(frame(index, shape), prompts=prompts))
        if index == CORRECTION and objects > 1:
            left, top, _, _ = box(shape)
            results[-1] = session.refine(2, Prompt(points=[(left // 2, top // 2)], labels=[0]))
    return results
