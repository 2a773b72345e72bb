"""Clips made of real pictures: photographs whose own objects are followed, real clips behind cut-out objects.

A scene is a ground, a photograph with its instances, a real clip or a rendered one, seen by a moving camera, and
things that move before it: objects cut out of photographs, people cut out of clips, a few drawn ones. Look-alikes
stand beside: a second copy of a thing, or the neighbours that a photograph has. Some things pass over a target and
hide it, for a while or to the end.
"""

from __future__ import annotations

import cv2
import numpy as np
from clips import Clip, Light, Part, Thing, draw, draw_thing, motion, smear, soft_field, twin, wander
from photos import Photos
from rendered import Rendered
from sources import Sources
from videos import Videos

CUTOUT = 176
"""Side of a cut-out object's picture, in pixels."""
TRIES = 12
LEAST = 0.003
"""Share of the first frame that a target covers at least."""


class Scenes:
    """Maker of clips from the material of one split."""

    def __init__(self, sources: Sources, photos: Photos, videos: Videos, rendered: Rendered) -> None:
        self.sources, self.photos, self.videos, self.rendered = sources, photos, videos, rendered

    def clip(self, seed: int, side: int, length: int, targets: int, pace: float, turned: bool = False) -> Clip:
        """A clip that is the same for the same arguments and material.

        Args:
            turned: the ground is a rendered clip, whose objects turn in depth.
        """
        for attempt in range(TRIES):
            rng = np.random.default_rng((seed, attempt, 7))
            clip = self._scene(rng, side, length, targets, pace, turned)
            if clip is not None:
                break
        if clip is None:
            raise RuntimeError(f"no scene in {TRIES} tries of seed {seed}")
        return clip

    def _scene(
        self, rng: np.random.Generator, side: int, length: int, targets: int, pace: float, turned: bool
    ) -> Clip | None:
        speed = pace * float(np.exp(rng.uniform(np.log(0.08), np.log(1.2))))
        if turned:
            ground, numbers = self.rendered.clip(rng, side, length, self._pictures(rng, length))
            movers = int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))
        else:
            ground, numbers = self._ground(rng, side, length, speed)
            movers = int(rng.choice([0, 1, 2, 3, 4], p=[0.1, 0.25, 0.3, 0.2, 0.15]))
        things = [self._thing(rng, length, speed) for _ in range(movers)]
        if things and rng.random() < 0.3:
            things.append(twin(rng, things[rng.integers(len(things))], length, speed))
        if rng.random() < 0.3 and length > 3:
            things.append(self._passing(rng, length, things))
        things = [things[index] for index in rng.permutation(len(things))]

        # Masks of the ground's instances and of all things, as numbers: things follow the ground's.
        base = int(numbers.max()) if numbers.size else 0
        light = Light(rng, length, side)
        frames = np.empty((length, side, side, 3), np.uint8)
        owners = np.zeros((length, side, side), np.int32)
        for t in range(length):
            image, owner = ground[t].copy(), numbers[t].astype(np.int32)
            for number, thing in enumerate(things, base + 1):
                layer, (y0, y1, x0, x1) = draw(thing, t, side, _STILL)
                if layer is None:
                    continue
                alpha = layer[..., 3:].astype(np.uint16)
                window = image[y0:y1, x0:x1]
                colour = np.minimum(layer[..., :3].astype(np.float32) * thing.gain[t], 255).astype(np.uint16)
                window[:] = np.minimum(colour + (window.astype(np.uint16) * (255 - alpha) + 127) // 255, 255)
                owner[y0:y1, x0:x1][layer[..., 3] > 127] = number
            frames[t], owners[t] = light.shine(image, t), owner
        counts = np.bincount(owners[0].ravel(), minlength=base + len(things) + 1)
        counts[0] = 0
        large = np.flatnonzero(counts >= LEAST * side * side)
        if len(large) < targets:
            return None
        # Larger ones more often, and things, which move by themselves, more often than the ground's.
        weight = counts[large] ** 0.3 * np.where(large > base, 1.0, 0.6)
        chosen = rng.choice(large, targets, replace=False, p=weight / weight.sum())
        return Clip(frames, np.stack([owners == number for number in chosen], 1).astype(np.uint8))

    def _ground(
        self, rng: np.random.Generator, side: int, length: int, speed: float
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Background frames and the numbers of their instances, (N, S, S)."""
        kind = rng.random()
        none = np.zeros((length, side, side), np.uint8)
        if kind < 0.3 and self.videos.frames:
            frames = [cv2.resize(frame, (side, side)) for frame in self.videos.background(rng, length)]
            return (frames if rng.random() < 0.5 else [frame[:, ::-1] for frame in frames]), none
        if kind < 0.9 and len(self.photos):
            image, instances = self.photos.draw(rng)
        else:
            image, instances = self.sources.picture(rng, side, 0.7), none[0]
        return _pan(rng, image, instances, side, length, speed)

    def _pictures(self, rng: np.random.Generator, length: int) -> list[np.ndarray]:
        """What stands behind a rendered clip."""
        if self.videos.frames and rng.random() < 0.4:
            return self.videos.background(rng, length)
        if len(self.photos):
            return [self.photos.draw(rng)[0]] * length
        return [self.sources.picture(rng, 256)] * length

    def _thing(self, rng: np.random.Generator, length: int, speed: float) -> Thing:
        kind = rng.random()
        if kind < 0.1 and self.videos.people:
            sprites: list[np.ndarray] | np.ndarray = [_square(frame) for frame in self.videos.person(rng, length)]
        else:
            cutout = self.photos.cutout(rng) if kind < 0.85 and len(self.photos) else None
            if cutout is None:
                return draw_thing(self.sources, rng, length, speed, 0.12)
            sprites = _square(cutout)
        bend = None
        if rng.random() < 0.5:
            bend = np.stack([soft_field(rng, CUTOUT) for _ in range(2)], -1) * rng.uniform(3, 14)
        part = Part(
            sprite=sprites,
            joint=np.zeros(2),
            pivot=np.full(2, CUTOUT / 2),
            size=1.0,
            stretch=float(np.exp(rng.uniform(-0.2, 0.2))),
            angle=rng.normal(0, 0.15) + wander(rng, length, 0.3 * speed),
            bend=bend,
            sway=wander(rng, length, 1.5),
        )
        size = float(np.exp(rng.uniform(np.log(0.15), np.log(0.9))))
        thing = Thing([part], gain=np.exp(wander(rng, length, 0.08)), **motion(rng, length, speed, size))
        if rng.random() < 0.7:  # seen from one side: no turn about its upright axis
            thing.turn = np.full(length, float(rng.choice([-1, 1])))
        return thing

    def _passing(self, rng: np.random.Generator, length: int, things: list[Thing]) -> Thing:
        """A thing that passes over another one, or over the frame's middle, and may stay before it."""
        thing = self._thing(rng, length, 0.2)
        when = int(rng.integers(2, length))
        over = things[rng.integers(len(things))] if things else None
        where = over.place[when] if over is not None else rng.uniform(0.25, 0.75, 2)
        direction = rng.uniform(0, 2 * np.pi)
        step = rng.uniform(0.05, 0.3) * np.array([np.cos(direction), np.sin(direction)])
        away = np.arange(length)[:, None] - when
        if rng.random() < 0.3:
            away = np.minimum(away, 0)  # it stays there
        thing.place = where + away * step
        large = float(over.size[when]) * rng.uniform(1.0, 1.7) if over is not None else rng.uniform(0.3, 0.8)
        thing.size = np.full(length, large)
        return thing


class _Still:
    """The camera of things: they move by themselves, the ground has its own."""

    def __init__(self) -> None:
        self.zoom, self.roll = np.ones(4096), np.zeros(4096)

    def place(self, point: np.ndarray, t: int) -> np.ndarray:
        return point


_STILL = _Still()


def _pan(
    rng: np.random.Generator, image: np.ndarray, instances: np.ndarray, side: int, length: int, speed: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """A camera that pans, zooms, rolls and tilts over a photograph: frames, and the numbers of its instances."""
    height, width = image.shape[:2]
    still = rng.random() < 0.15
    strength = 0.0 if still else speed * float(rng.uniform(0.3, 1.2))
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(0.95))))  # of the photograph that is seen
    aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
    zoom = np.exp(wander(rng, length, 0.3 * strength))
    roll = wander(rng, length, 0.25 * strength)
    shift = np.stack([wander(rng, length, 0.35 * strength) for _ in range(2)], 1) + rng.uniform(-0.2, 0.2, 2)
    tilt = np.stack([wander(rng, length, 0.12 * strength) for _ in range(2)], 1)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
    flip = rng.choice([-1, 1])
    blurs = rng.random() < 0.3
    if scale * max(height, width) > 1.6 * side:  # no aliasing
        factor = 1.3 * side / (scale * max(height, width))
        new = round(width * factor), round(height * factor)
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
        instances = cv2.resize(instances, new, interpolation=cv2.INTER_NEAREST)
        height, width = image.shape[:2]
    frames, numbers = [], np.zeros((length, side, side), instances.dtype)
    target = ((corners + 0.5) * side).astype(np.float32)
    for t in range(length):
        extent = scale * zoom[t]
        centre = 0.5 + np.tanh(shift[t] * 2) * max(0.05, (1 - extent) / 2)
        turn = np.array([[np.cos(roll[t]), -np.sin(roll[t])], [np.sin(roll[t]), np.cos(roll[t])]])
        square = corners * (1 + corners @ tilt[t][:, None])
        source = (square @ turn.T) * extent * [aspect, 1 / aspect] * [flip, 1] + centre
        matrix = cv2.getPerspectiveTransform((source * [width, height]).astype(np.float32), target)
        frame = cv2.warpPerspective(
            image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        if blurs and t:
            frame = smear(frame, (shift[t] - shift[t - 1]) * side * 0.5)
        frames.append(frame)
        numbers[t] = cv2.warpPerspective(instances, matrix, (side, side), flags=cv2.INTER_NEAREST)
    return frames, numbers


def _square(picture: np.ndarray) -> np.ndarray:
    """RGBA, not premultiplied, of any size as a premultiplied square of CUTOUT pixels."""
    scale = CUTOUT / max(picture.shape[:2])
    new = [max(4, round(n * scale)) for n in picture.shape[:2]]
    alpha = picture[..., 3:].astype(np.float32) / 255
    flat = np.dstack((picture[..., :3] * alpha, picture[..., 3])).astype(np.uint8)
    small = cv2.resize(flat, new[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((CUTOUT, CUTOUT, 4), np.uint8)
    top, left = (CUTOUT - new[0]) // 2, (CUTOUT - new[1]) // 2
    square[top : top + new[0], left : left + new[1]] = small
    return square
