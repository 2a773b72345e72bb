"""What clips are made of: photographs, colour glyphs, and textures that are drawn.

Photographs come from scientific packages that ship them (all public domain, CC0 or CC BY: see MODEL_CARD.md) or from
folders of your own; glyphs from a colour emoji font under a free licence (Noto Color Emoji, OFL 1.1). Whatever is
missing is left out, and the trainer says what it has: drawn textures and shapes are always there.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from etam_edge.atomic import atomic_file

PACKAGED_PHOTOS = {
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
        "data/brick.png",
        "data/grass.png",
        "data/gravel.png",
        "data/coins.png",
        "data/camera.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
HELD_OUT_PHOTOS = {"coffee", "flower", "gravel"}
"""Photographs that only evaluation clips show."""
HELD_OUT_GLYPHS = 8
"""Every eighth glyph appears in evaluation clips only."""
EMOJI_FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)
EMOJI_RANGES = ((0x1F300, 0x1FAFF), (0x2600, 0x27BF))
STRIKE = 109
"""The one size at which Noto's bitmaps can be drawn."""
GLYPH = 112
"""Side of a stored glyph, in pixels."""
PHOTO_SIDE = 640


class Sources:
    """Photographs and glyphs of one split.

    Args:
        held_out: the part kept for evaluation, otherwise the part for training.
        photos: extra folders of photographs.
        emoji_font: a colour bitmap font; None looks in the usual places.
        cache: folder where drawn glyphs are kept.
    """

    def __init__(
        self, held_out: bool, photos: tuple[Path, ...] = (), emoji_font: Path | None = None, cache: Path | None = None
    ) -> None:
        self.photos = [image for name, image in _photos(photos) if (name in HELD_OUT_PHOTOS) == held_out]
        glyphs = _glyphs(emoji_font, cache)
        chosen = np.arange(len(glyphs)) % HELD_OUT_GLYPHS == 0
        self._glyphs, self._indices = glyphs, np.flatnonzero(chosen == held_out)

    @property
    def glyph_count(self) -> int:
        return len(self._indices)

    def glyph(self, rng: np.random.Generator) -> np.ndarray | None:
        """A colour glyph, uint8 RGBA (GLYPH, GLYPH, 4), or None where there is no font."""
        if not len(self._indices):
            return None
        return np.array(self._glyphs[rng.choice(self._indices)])

    def picture(self, rng: np.random.Generator, side: int, photo_share: float = 0.6) -> np.ndarray:
        """A crop of a photograph, or a drawn texture: uint8 RGB (side, side, 3)."""
        if not self.photos or rng.random() > photo_share:
            return texture(rng, side)
        photo = self.photos[rng.integers(len(self.photos))]
        shortest = min(photo.shape[:2])
        size = int(shortest * rng.uniform(0.25, 1.0))
        aspect = np.exp(rng.uniform(-0.4, 0.4))
        height, width = min(int(size * aspect), photo.shape[0]), min(int(size / aspect), photo.shape[1])
        y, x = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
        crop = photo[y : y + height, x : x + width]
        crop = np.ascontiguousarray(np.rot90(crop[:, :: rng.choice([-1, 1])], rng.choice([0, 0, 0, 1, 2, 3])))
        return recolour(rng, cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), 0.5)


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A drawn texture: fractal noise, stripes, checks, cells or a gradient in a few colours; uint8 RGB."""
    noise = fractal(rng, side, rng.uniform(0.35, 0.8))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    kind = rng.integers(6)
    if kind == 0:
        value = noise
    elif kind == 1:
        angle, count = rng.uniform(0, np.pi), rng.uniform(2, 24)
        wave = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 0.3) * noise
        value = 0.5 + 0.5 * np.sin(2 * np.pi * count * wave)
    elif kind == 2:
        count = rng.uniform(2, 14)
        bend = rng.uniform(0, 0.15) * noise
        value = ((np.floor((x + bend) * count) + np.floor((y + bend) * count)) % 2).astype(np.float32)
    elif kind == 3:
        value = cells(rng, side)
    elif kind == 4:
        angle = rng.uniform(0, 2 * np.pi)
        value = 0.5 + 0.5 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) + 0.2 * (noise - 0.5)
    else:
        value = (fractal(rng, side, 0.5) > noise).astype(np.float32)
    if rng.random() < 0.5:
        value = 0.75 * value + 0.25 * fractal(rng, side, 0.8)
    colours = rng.uniform(0, 255, (rng.integers(2, 5), 3)).astype(np.float32)
    if rng.random() < 0.5:  # muted, as most of the world is
        colours = colours.mean(1, keepdims=True) + (colours - colours.mean(1, keepdims=True)) * rng.uniform(0, 0.4)
    place = np.clip(value, 0, 1) * (len(colours) - 1)
    low = np.minimum(place.astype(np.int32), len(colours) - 2)
    share = (place - low)[..., None]
    return (colours[low] * (1 - share) + colours[low + 1] * share).astype(np.uint8)


def fractal(rng: np.random.Generator, side: int, roughness: float) -> np.ndarray:
    """Noise of octaves, float32 (side, side) in [0, 1]; the amplitude falls by `roughness` an octave."""
    total, amplitude, size = np.zeros((side, side), np.float32), 1.0, int(rng.integers(2, 5))
    while size < side:
        octave = rng.standard_normal((size, size)).astype(np.float32)
        total += amplitude * cv2.resize(octave, (side, side), interpolation=cv2.INTER_CUBIC)
        amplitude, size = amplitude * roughness, size * 2
    low, high = np.quantile(total[::4, ::4], (0.02, 0.98))
    return np.clip((total - low) / (high - low + 1e-6), 0, 1)


def cells(rng: np.random.Generator, side: int) -> np.ndarray:
    """Voronoi cells of random grey, float32 (side, side) in [0, 1]."""
    count = int(rng.integers(8, 60))
    seeds = rng.uniform(0, side, (count, 2)).astype(np.float32)
    marks = np.full((side, side), 255, np.uint8)
    for x, y in seeds:
        marks[int(y) % side, int(x) % side] = 0
    _, labels = cv2.distanceTransformWithLabels(marks, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    return rng.random(int(labels.max()) + 1).astype(np.float32)[labels]


def recolour(rng: np.random.Generator, image: np.ndarray, chance: float) -> np.ndarray:
    """With this chance, the picture in other colours: hue, saturation and contrast changed; uint8 RGB."""
    if rng.random() > chance:
        return image
    mixed = image.astype(np.float32)
    grey = mixed.mean(2, keepdims=True)
    mixed = grey + (mixed - grey) * rng.uniform(0.2, 1.5)
    if rng.random() < 0.5:
        mixed = mixed[..., rng.permutation(3)]
    mixed = (mixed - 128) * rng.uniform(0.6, 1.3) + 128 + rng.uniform(-40, 40, 3)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _photos(folders: tuple[Path, ...]) -> list[tuple[str, np.ndarray]]:
    files = []
    for package, names in PACKAGED_PHOTOS.items():
        spec = find_spec(package)
        if spec and spec.submodule_search_locations:
            files += [Path(spec.submodule_search_locations[0]) / name for name in names]
    for folder in folders:
        files += sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    found = []
    for file in files:
        if file.exists():
            with Image.open(file) as image:
                image = image.convert("RGB")
                image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
                found.append((file.stem, np.asarray(image)))
    return found


def _glyphs(font_file: Path | None, cache: Path | None) -> np.ndarray:
    """All glyphs, uint8 (N, GLYPH, GLYPH, 4); drawn once and kept in the cache, where processes share them."""
    kept = cache / "glyphs.npy" if cache else None
    if kept is not None and kept.exists():
        return np.load(kept, mmap_mode="r")
    file = font_file or next((Path(name) for name in EMOJI_FONTS if Path(name).exists()), None)
    drawn = _draw_glyphs(file) if file else []
    glyphs = np.stack(drawn) if drawn else np.zeros((0, GLYPH, GLYPH, 4), np.uint8)
    if kept is not None and drawn:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as file:
            np.save(file, glyphs)
    return glyphs


def _draw_glyphs(file: Path) -> list[np.ndarray]:
    font = ImageFont.truetype(str(file), STRIKE)
    drawn = []
    for code in (code for first, last in EMOJI_RANGES for code in range(first, last + 1)):
        image = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(image).text((8, 8), chr(code), font=font, embedded_color=True)
        bounds = image.getchannel("A").getbbox()
        if bounds is None or bounds[2] - bounds[0] < 40 or bounds[3] - bounds[1] < 40:
            continue
        image = image.crop(bounds)
        if len(image.convert("RGB").getcolors(160 * 160) or []) < 8:
            continue  # the font's sign for 'no such glyph'
        image.thumbnail((GLYPH, GLYPH))
        square = Image.new("RGBA", (GLYPH, GLYPH))
        square.paste(image, ((GLYPH - image.width) // 2, (GLYPH - image.height) // 2))
        drawn.append(np.asarray(square))
    return drawn
