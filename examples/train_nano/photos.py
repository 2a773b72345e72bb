"""Photographs with instance masks: single images to learn objects from, and cut-outs for clips.

The folder holds `images/*.jpg` and `instances/*.png`, where 0 is background and 1 to N are objects. Every tenth
photograph, by name, is held out for evaluation. Narrow themes (books, facades, bolts, ...) hold most of the masks, so
photographs are drawn by theme first: what stands before the first underscore of the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

HELD_OUT_EVERY = 10
THEME_SHARES = {"coco": 0.5, "animals": 0.14}
"""Of photographs by theme; the other themes share what remains equally."""
SMALLEST = 0.004
"""Share of the picture that an object needs to be prompted."""
WHOLE = 0.4
"""Share of photographs that are shown whole, squeezed to a square as the tracker does, rather than cropped."""
CUTOUT_SMALLEST = 0.01


@dataclass(frozen=True)
class Still:
    """An image and P objects to prompt.

    Attributes:
        image: uint8 RGB (S, S, 3).
        masks: uint8 (P, S, S).
        clicks: float32 (P, 2), a pixel of each object: a random one or the one that lies deepest.
    """

    image: np.ndarray
    masks: np.ndarray
    clicks: np.ndarray


class Photos:
    """Photographs of one split.

    Args:
        folder: with `images` and `instances`; a folder that does not exist has no photographs.
        held_out: the part kept for evaluation, otherwise the part for training.
    """

    def __init__(self, folder: Path | None, held_out: bool) -> None:
        files = sorted((folder / "images").glob("*.jpg")) if folder else []
        self.files = [f for index, f in enumerate(files) if (index % HELD_OUT_EVERY == 0) == held_out]
        self.themes: dict[str, list[Path]] = {}
        for file in self.files:
            theme = file.stem.split("_")[0] if "_" in file.stem else "coco"
            self.themes.setdefault(theme, []).append(file)
        self._names = sorted(self.themes)
        rest = [name for name in self._names if name not in THEME_SHARES]
        left = 1 - sum(THEME_SHARES[name] for name in self._names if name in THEME_SHARES)
        shares = np.array([THEME_SHARES.get(name, left / max(1, len(rest))) for name in self._names])
        self._shares = shares / shares.sum()

    def __len__(self) -> int:
        return len(self.files)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A photograph, uint8 RGB, and its instances, uint8."""
        theme = self.themes[self._names[rng.choice(len(self._names), p=self._shares)]]
        return load(theme[rng.integers(len(theme))])

    def cutout(self, rng: np.random.Generator) -> np.ndarray | None:
        """An object of a photograph: uint8 RGBA, not premultiplied, cropped to its bounds; None if none was found."""
        for _ in range(8):
            image, instances = self.draw(rng)
            found = cut(image, instances, rng)
            if found is not None:
                return found
        return None

    def still(self, rng: np.random.Generator, side: int, objects: int) -> Still | None:
        """A photograph as it is trained on, with up to this many objects; None where no object is large enough."""
        image, instances = self.draw(rng)
        if rng.random() < 0.3:
            other = self.cutout(rng)
            if other is not None:
                image, instances = paste(rng, image, instances, other)
        image, instances = view(rng, image, instances, side)
        counts = np.bincount(instances.ravel())[1:]
        large = np.flatnonzero(counts >= SMALLEST * side * side) + 1
        if not len(large):
            return None
        chosen = rng.choice(large, min(objects, len(large)), replace=False)
        masks = np.stack([(instances == number) for number in chosen]).astype(np.uint8)
        clicks = np.stack([click(rng, mask) for mask in masks])
        return Still(camera(rng, image), masks, clicks)


def load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    instances = cv2.imread(str(file.parent.parent / "instances" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
    return image, instances


def cut(image: np.ndarray, instances: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    counts = np.bincount(instances.ravel())
    large = np.flatnonzero(counts[1:] >= CUTOUT_SMALLEST * instances.size) + 1
    if not len(large):
        return None
    mask = (instances == rng.choice(large)).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if min(width, height) < 24:
        return None
    touching = (x == 0) + (y == 0) + (x + width == mask.shape[1]) + (y + height == mask.shape[0])
    if touching > 1 or width * height > 0.85 * mask.size:
        return None
    part = np.pad(mask[y : y + height, x : x + width], 2)
    part = cv2.erode(part, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(part.astype(np.float32) * 255, (0, 0), 0.8)[2:-2, 2:-2]
    return np.dstack((image[y : y + height, x : x + width], alpha.astype(np.uint8)))


def paste(
    rng: np.random.Generator, image: np.ndarray, instances: np.ndarray, cutout: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cut-out somewhere on the photograph, as one more instance."""
    height, width = image.shape[:2]
    size = float(np.exp(rng.uniform(np.log(0.15), np.log(0.7)))) * min(height, width) / max(cutout.shape[:2])
    size = min(size, 1.5)
    new = [max(8, int(s * size)) for s in cutout.shape[:2]]
    small = cv2.resize(cutout[:, :: rng.choice([-1, 1])], new[::-1], interpolation=cv2.INTER_AREA)
    y = int(rng.integers(-new[0] // 4, max(1, height - new[0] * 3 // 4)))
    x = int(rng.integers(-new[1] // 4, max(1, width - new[1] * 3 // 4)))
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + new[0], height), min(x + new[1], width)
    small = small[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = small[..., 3:].astype(np.float32) / 255
    image, instances = image.copy(), instances.copy()
    window = image[y0:y1, x0:x1]
    window[:] = (small[..., :3] * alpha + window * (1 - alpha)).astype(np.uint8)
    if instances.max() < 255:
        instances[y0:y1, x0:x1][small[..., 3] > 127] = instances.max() + 1
    return image, instances


def view(
    rng: np.random.Generator, image: np.ndarray, instances: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """The whole photograph or a part of it around one of its objects, sometimes turned, as a square."""
    height, width = instances.shape
    if rng.random() < 0.25:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.normal(0, 10)), 1.0)
        image = cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        instances = cv2.warpAffine(instances, matrix, (width, height), flags=cv2.INTER_NEAREST)
    if rng.random() > WHOLE:
        numbers = np.unique(instances)
        numbers = numbers[numbers > 0]
        scale = float(np.exp(rng.uniform(np.log(0.35), 0.0))) * min(height, width)
        aspect = float(np.exp(rng.uniform(-0.4, 0.4)))
        rows, columns = min(int(scale * aspect), height), min(int(scale / aspect), width)
        if len(numbers):
            x, y, w, h = cv2.boundingRect((instances == rng.choice(numbers)).astype(np.uint8))
            if rng.random() < 0.7:  # most crops hold most of the object
                rows, columns = min(max(rows, int(h * 1.1)), height), min(max(columns, int(w * 1.1)), width)
            centre = y + h / 2 + rng.normal(0, 0.25) * rows, x + w / 2 + rng.normal(0, 0.25) * columns
        else:
            centre = rng.uniform(0, height), rng.uniform(0, width)
        top = int(np.clip(centre[0] - rows / 2, 0, height - rows))
        left = int(np.clip(centre[1] - columns / 2, 0, width - columns))
        image = image[top : top + rows, left : left + columns]
        instances = instances[top : top + rows, left : left + columns]
    shrinks = image.shape[0] > side
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    instances = cv2.resize(instances, (side, side), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, instances = image[:, ::-1], instances[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(instances)


def camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What cameras do to a picture: exposure, white balance, saturation, blur, noise and compression; uint8 RGB."""
    mixed = image.astype(np.float32)
    if rng.random() < 0.8:
        grey = mixed.mean(2, keepdims=True)
        saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.4)
        mixed = grey + (mixed - grey) * saturation
        mixed = (mixed - 128) * rng.uniform(0.7, 1.25) + 128 + rng.normal(0, 18)
        mixed *= rng.uniform(0.88, 1.12, 3)
    if rng.random() < 0.05:
        mixed = mixed[..., rng.permutation(3)]
    if rng.random() < 0.15:
        mixed = cv2.GaussianBlur(mixed, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.25:
        mixed += rng.standard_normal((*image.shape[:2], 1), np.float32) * rng.uniform(1, 9)
    image = np.ascontiguousarray(np.clip(mixed, 0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return image


def click(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A pixel of the mask as (x, y), float32: the deepest in half of the cases, otherwise any."""
    if rng.random() < 0.5:
        return deepest(mask)
    rows, columns = np.nonzero(mask)
    index = rng.integers(len(rows))
    return np.array([columns[index], rows[index]], np.float32)


def deepest(mask: np.ndarray) -> np.ndarray:
    """The pixel that is farthest from the object's edge, as (x, y), float32."""
    inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(inside.argmax(), mask.shape)
    return np.array([x, y], np.float32)
