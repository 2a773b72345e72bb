"""Procedural clips with exact masks: things that move, deform, hide each other, leave and return.

A clip is a background under a moving camera and several objects in front of it. An object has one to four parts (a
glyph, a cut-out of a photograph, a drawn shape), each swinging about its joint, so that things bend and walk. Some
objects are copies of each other with other poses: only following them tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from sources import Sources, fractal, recolour

SPRITE = 112
"""Side of a part's picture, in pixels."""
TRIES = 12
UNIT = 10
"""Frames in which a thing goes about as far as its speed says."""


@dataclass(frozen=True)
class Clip:
    """A clip and the masks of its K targets.

    Attributes:
        frames: uint8 RGB (N, S, S, 3).
        masks: uint8 (N, K, S, S), 1 where the target is visible.
    """

    frames: np.ndarray
    masks: np.ndarray


@dataclass
class Part:
    """One picture of an object and how it swings.

    Attributes:
        sprite: uint8 RGBA (P, P, 4), premultiplied; or one for each frame.
        joint: where it hangs on the object, in object units (the object spans about 1).
        pivot: the point of the sprite that stays at the joint, in sprite pixels.
        size, stretch: its size in object units; x over y.
        angle, swing: radians, (N,) over the frames.
        bend: displacement field, float32 (P, P, 2) in sprite pixels, times `sway` (N,).
    """

    sprite: np.ndarray | list[np.ndarray]
    joint: np.ndarray
    pivot: np.ndarray
    size: float
    stretch: float
    angle: np.ndarray
    bend: np.ndarray | None
    sway: np.ndarray


@dataclass
class Thing:
    """An object and its way through the clip.

    Attributes:
        place: (N, 2) and size: (N,), in frame sides.
        angle: (N,), radians; turn: (N,), cosine of the turn about its upright axis.
        gain: (N,), brightness.
    """

    parts: list[Part]
    place: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    turn: np.ndarray
    gain: np.ndarray


def make_clip(
    sources: Sources, seed: int, side: int, length: int, targets: int, small: float = 0.12, pace: float = 1.0
) -> Clip:
    """A clip that is the same for the same arguments and sources.

    Args:
        side: S, frame side in pixels.
        length: N, frames.
        targets: K, objects whose masks are given; each is visible in the first frame.
        small: size of the smallest objects in frame sides.
        pace: how fast all moves, 1 for the full range from nearly still to wild.
    """
    for attempt in range(TRIES):
        rng = np.random.default_rng((seed, attempt))
        clip = _render(sources, rng, side, length, targets, small, pace)
        least = max(12.0, 0.001 * side * side)
        if (clip.masks[0].sum((1, 2)) >= least).all():
            break
    return clip


def _render(
    sources: Sources, rng: np.random.Generator, side: int, length: int, targets: int, small: float, pace: float
) -> Clip:
    speed = pace * float(np.exp(rng.uniform(np.log(0.08), np.log(1.2))))
    camera = _Camera(rng, length, speed)
    things = [draw_thing(sources, rng, length, speed, small) for _ in range(targets)]
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.25, 0.3, 0.2, 0.15, 0.1]))):
        if rng.random() < 0.4:
            things.append(twin(rng, things[rng.integers(targets)], length, speed))
        else:
            things.append(draw_thing(sources, rng, length, speed, small))
    order = rng.permutation(len(things))
    backdrop = _backdrop(sources, rng, side)
    light = Light(rng, length, side)

    frames = np.empty((length, side, side, 3), np.uint8)
    masks = np.zeros((length, targets, side, side), np.uint8)
    for t in range(length):
        image = camera.view(backdrop, t, side)
        for number in order:
            thing = things[number]
            layer, box = draw(thing, t, side, camera)
            if layer is None:
                continue
            y0, y1, x0, x1 = box
            alpha = layer[..., 3:].astype(np.uint16)
            window = image[y0:y1, x0:x1]
            colour = np.minimum(layer[..., :3].astype(np.float32) * thing.gain[t], 255).astype(np.uint16)
            window[:] = np.minimum(colour + (window.astype(np.uint16) * (255 - alpha) + 127) // 255, 255)
            solid = layer[..., 3] > 127
            masks[t, :, y0:y1, x0:x1][:, solid] = 0
            if number < targets:
                masks[t, number, y0:y1, x0:x1][solid] = 1
        frames[t] = light.shine(image, t)
    return Clip(frames, masks)


class _Camera:
    """Where the camera looks: shift in frame sides, zoom, roll."""

    def __init__(self, rng: np.random.Generator, length: int, speed: float) -> None:
        still = rng.random() < 0.3
        strength = 0.0 if still else speed * float(rng.uniform(0.1, 1.0))
        self.shift = np.stack([wander(rng, length, 0.35 * strength) for _ in range(2)], 1)
        self.zoom = np.exp(wander(rng, length, 0.25 * strength))
        self.roll = wander(rng, length, 0.2 * strength)
        self.smear = rng.random() < 0.3

    def view(self, backdrop: np.ndarray, t: int, side: int) -> np.ndarray:
        size = backdrop.shape[0]
        scale = self.zoom[t] * side / size * 1.9
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), float(np.degrees(self.roll[t])), float(scale))
        matrix[:, 2] += side / 2 - size / 2 + self.shift[t] * side
        image = cv2.warpAffine(
            backdrop, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        if self.smear and t:
            step = (self.shift[t] - self.shift[t - 1]) * side * 0.5
            image = smear(image, step)
        return image

    def place(self, point: np.ndarray, t: int) -> np.ndarray:
        return (point - 0.5) * self.zoom[t] + 0.5 + self.shift[t]


class Light:
    """Brightness, colour, shadows, blur, noise and compression, changing over time."""

    def __init__(self, rng: np.random.Generator, length: int, side: int) -> None:
        self.rng = rng
        flicker = 0.3 if rng.random() < 0.3 else 0.06
        self.gain = np.exp(wander(rng, length, flicker))[:, None] * np.exp(
            np.stack([wander(rng, length, 0.25 * flicker) for _ in range(3)], 1)
        )
        self.gamma = float(np.exp(rng.uniform(-0.35, 0.35)))
        self.shadow = None
        if rng.random() < 0.25:
            field = cv2.GaussianBlur(fractal(rng, side, 0.4), (0, 0), side / 16)
            self.shadow = 1 - rng.uniform(0.2, 0.6) * field
            self.drift = wander(rng, length, 0.3) * side
        self.blur = float(rng.choice([0, 0, 0, rng.uniform(0.4, 1.2)])) * side / 256
        self.noise = float(rng.choice([0, rng.uniform(1, 10)]))
        self.quality = int(rng.integers(25, 95)) if rng.random() < 0.5 else None

    def shine(self, image: np.ndarray, t: int) -> np.ndarray:
        if self.blur > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        ramp = (np.arange(256, dtype=np.float32) / 255) ** self.gamma * 255
        table = np.clip(ramp[:, None] * self.gain[t], 0, 255).astype(np.uint8)
        image = cv2.LUT(image, np.ascontiguousarray(table[None]))
        if self.shadow is not None:
            shade = np.roll(self.shadow, int(self.drift[t]), axis=1)
            image = (image * shade[..., None]).astype(np.uint8)
        if self.noise:
            grain = self.rng.integers(-128, 128, (*image.shape[:2], 1), dtype=np.int16) * self.noise / 74
            image = np.clip(image + grain, 0, 255).astype(np.uint8)
        if self.quality is not None:
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return image


def wander(rng: np.random.Generator, length: int, amplitude: float) -> np.ndarray:
    """A smooth path that starts near 0, float64 (N,): drift, a wave and a little jitter."""
    t = np.arange(length) / UNIT
    wave = np.sin(2 * np.pi * (rng.uniform(0.2, 2.0) * t + rng.random()))
    path = rng.normal() * t + rng.uniform(0, 0.8) * (wave - wave[0]) + 0.01 * rng.standard_normal(length)
    return amplitude * path


def _backdrop(sources: Sources, rng: np.random.Generator, side: int) -> np.ndarray:
    size = side + side // 2
    image = sources.picture(rng, size, photo_share=0.7)
    for _ in range(int(rng.integers(0, 7))):  # things that belong to the background
        patch = int(rng.integers(size // 10, size // 2))
        sprite = cv2.resize(_sprite(sources, rng), (patch, patch), interpolation=cv2.INTER_AREA)
        y, x = rng.integers(0, size - patch, 2)
        window = image[y : y + patch, x : x + patch]
        alpha = sprite[..., 3:].astype(np.uint16)
        window[:] = np.minimum(sprite[..., :3] + (window.astype(np.uint16) * (255 - alpha)) // 255, 255)
    return image


def draw_thing(sources: Sources, rng: np.random.Generator, length: int, speed: float, small: float) -> Thing:
    parts = []
    for index in range(int(rng.choice([1, 2, 3, 4], p=[0.6, 0.18, 0.12, 0.1]))):
        swing = 0.0 if index == 0 else rng.uniform(0.1, 1.0)
        bend = None
        if rng.random() < 0.4:
            bend = np.stack([soft_field(rng) for _ in range(2)], -1) * rng.uniform(3, 12)
        thin = rng.random() < 0.25
        parts.append(
            Part(
                sprite=_sprite(sources, rng),
                joint=np.zeros(2) if index == 0 else rng.uniform(-0.4, 0.4, 2),
                pivot=np.array([SPRITE / 2, SPRITE / 2 if index == 0 else SPRITE * rng.uniform(0.05, 0.5)]),
                size=1.0 if index == 0 else rng.uniform(0.35, 0.8),
                stretch=float(np.exp(rng.uniform(-0.5, 0.5) + (rng.choice([-1, 1]) * 0.8 if thin else 0))),
                angle=rng.uniform(-0.4, 0.4) + wander(rng, length, swing * min(1.0, speed + 0.3)),
                bend=bend,
                sway=wander(rng, length, 1.5),
            )
        )
    if rng.random() < 0.3:
        parts[0].angle = parts[0].angle + rng.uniform(-np.pi, np.pi)
    size = float(np.exp(rng.uniform(np.log(small), np.log(0.9))))
    return Thing(parts, gain=np.exp(wander(rng, length, 0.08)), **motion(rng, length, speed, size))


def motion(rng: np.random.Generator, length: int, speed: float, size: float) -> dict[str, np.ndarray]:
    start = rng.uniform(0.2, 0.8, 2)
    place = start + np.stack([wander(rng, length, 0.4 * speed) for _ in range(2)], 1)
    if rng.random() < 0.15 and length > 3:  # out of the frame and back
        away = np.sin(np.pi * rng.uniform(0.8, 2.5) * np.arange(length) / UNIT).clip(0)
        direction = rng.uniform(0, 2 * np.pi)
        place = place + 1.4 * away[:, None] * np.array([np.cos(direction), np.sin(direction)])
    return {
        "place": place,
        "size": size * np.exp(wander(rng, length, 0.25 * speed)),
        "angle": wander(rng, length, 0.5 * speed),
        "turn": np.cos(wander(rng, length, 0.9 * speed)) * rng.choice([-1, 1]),
    }


def twin(rng: np.random.Generator, model: Thing, length: int, speed: float) -> Thing:
    """A copy of a thing elsewhere: the same parts in another place and pose."""
    return Thing(
        model.parts,
        gain=model.gain,
        **motion(rng, length, speed, float(model.size[0]) * rng.uniform(0.7, 1.3)),
    )


def draw(thing: Thing, t: int, side: int, camera: _Camera) -> tuple[np.ndarray | None, tuple[int, int, int, int]]:
    """The thing on frame t: a premultiplied RGBA layer and the rectangle (y0, y1, x0, x1) that it covers."""
    unit = thing.size[t] * camera.zoom[t] * side
    centre = camera.place(thing.place[t], t) * side
    turn = float(np.sign(thing.turn[t]) * max(abs(thing.turn[t]), 0.25))
    body = _matrix(thing.angle[t] + camera.roll[t]) @ np.diag([turn, 1.0]) * unit
    matrices, corners = [], []
    for part in thing.parts:
        joint = centre + body @ part.joint
        pixels = (part.sprite[t] if isinstance(part.sprite, list) else part.sprite).shape[0]
        scale = part.size / pixels
        linear = body @ _matrix(part.angle[t]) @ np.diag([scale * part.stretch**0.5, scale / part.stretch**0.5])
        matrices.append((linear, joint - linear @ part.pivot))
        square = np.array([[0, 0], [pixels, 0], [0, pixels], [pixels, pixels]], float)
        corners.append(square @ linear.T + matrices[-1][1])
    low, high = np.floor(np.concatenate(corners).min(0)), np.ceil(np.concatenate(corners).max(0))
    x0, y0 = (int(v) for v in np.clip(low, 0, side))
    x1, y1 = (int(v) for v in np.clip(high, 0, side))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None, (0, 0, 0, 0)
    layer: np.ndarray | None = None
    for part, (linear, offset) in zip(thing.parts, matrices, strict=True):
        sprite = part.sprite[t] if isinstance(part.sprite, list) else part.sprite
        if part.bend is not None:
            field = grid(sprite.shape[0]) + part.bend * np.float32(part.sway[t])
            sprite = cv2.remap(sprite, field[..., 0], field[..., 1], cv2.INTER_LINEAR)
        shrink = np.sqrt(abs(np.linalg.det(linear)))
        if shrink < 0.5:  # no aliasing on small things
            factor = max(shrink, 0.1)
            pixels = sprite.shape[0]
            small = max(8, int(pixels * factor))
            sprite = cv2.resize(sprite, (small, small), interpolation=cv2.INTER_AREA)
            linear = linear * (pixels / small)
        matrix = np.concatenate((linear, (offset - (x0, y0))[:, None]), axis=1)
        drawn = cv2.warpAffine(sprite, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        if layer is None:
            layer = drawn
        else:
            rest = 255 - drawn[..., 3:].astype(np.uint16)
            layer = np.minimum(drawn + (layer * rest + 127) // 255, 255).astype(np.uint8)
    return layer, (y0, y1, x0, x1)


def _sprite(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """A glyph, or a shape cut out of a picture; premultiplied RGBA (SPRITE, SPRITE, 4)."""
    glyph = sources.glyph(rng) if rng.random() < 0.55 else None
    if glyph is None:
        picture, alpha = sources.picture(rng, SPRITE, photo_share=0.7), _shape(rng)
    else:
        alpha = glyph[..., 3]
        picture = recolour(rng, glyph[..., :3], 0.5)
        if rng.random() < 0.4:  # the glyph's outline in other stuff
            share = rng.uniform(0.3, 1.0)
            stuff = sources.picture(rng, SPRITE, photo_share=0.7)
            picture = (picture * (1 - share) + stuff * share).astype(np.uint8)
    if rng.random() < 0.4:  # rounded by light
        y, x = np.mgrid[-1 : 1 : SPRITE * 1j, -1 : 1 : SPRITE * 1j]
        direction = rng.uniform(0, 2 * np.pi)
        shade = 1 - rng.uniform(0.1, 0.4) * (1 + np.cos(direction) * x + np.sin(direction) * y)
        picture = (picture * shade[..., None].clip(0.1, 1)).astype(np.uint8)
    colour = picture * (alpha[..., None].astype(np.float32) / 255)
    return np.concatenate((colour.astype(np.uint8), alpha[..., None]), -1)


def _shape(rng: np.random.Generator) -> np.ndarray:
    """A blob, a polygon, a limb or a ring; uint8 (SPRITE, SPRITE)."""
    size = SPRITE * 2
    mask = np.zeros((size, size), np.uint8)
    kind = rng.integers(5)
    if kind <= 1:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        radius = np.ones_like(angle)
        for wave in range(1, 7):
            radius += rng.normal(0, 0.45 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) * (wave > 1)
        radius = np.clip(radius, 0.15, None)
        points = np.stack((radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.4, 1)), 1)
        _fill(mask, points)
    elif kind == 2:
        count = int(rng.integers(3, 9))
        angle = (
            np.sort(rng.uniform(0, 2 * np.pi, count)) if rng.random() < 0.5 else np.arange(count) * 2 * np.pi / count
        )
        radius = rng.uniform(0.4, 1, count)
        _fill(mask, np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1))
    elif kind == 3:
        points = np.cumsum(rng.normal(0, 1, (int(rng.integers(3, 6)), 2)), 0)
        points = (points - points.min(0)) / np.ptp(points, axis=0).max()
        points = ((points * 0.7 + 0.15) * size).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, int(rng.integers(size // 16, size // 5)), cv2.LINE_AA)
    else:
        axes = (int(size * rng.uniform(0.25, 0.45)), int(size * rng.uniform(0.2, 0.45)))
        thickness = -1 if rng.random() < 0.6 else int(rng.integers(size // 12, size // 5))
        cv2.ellipse(mask, (size // 2, size // 2), axes, 0, 0, 360, 255, thickness, cv2.LINE_AA)
    return cv2.resize(mask, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA)


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    points = points / np.abs(points).max() * 0.48 + 0.5
    cv2.fillPoly(mask, [(points * mask.shape[0]).astype(np.int32)], 255, cv2.LINE_AA)


def soft_field(rng: np.random.Generator, side: int = SPRITE) -> np.ndarray:
    coarse = rng.standard_normal((4, 4)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _matrix(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def smear(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Motion blur along `step` pixels."""
    size = int(np.ceil(np.abs(step).max())) | 1
    if size < 3:
        return image
    size = min(size, 31)
    kernel = np.zeros((size, size), np.float32)
    middle = size // 2
    end = np.clip(step / 2, -middle, middle)
    cv2.line(kernel, tuple(round(float(v)) for v in middle - end), tuple(round(float(v)) for v in middle + end), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


@cache
def grid(side: int) -> np.ndarray:
    """The place of every pixel, float32 (side, side, 2) as (x, y)."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).astype(np.float32)
