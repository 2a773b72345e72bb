"""Two short clips with ground-truth masks: a real one, and a synthetic one in which one object occludes another.

`chair` is from PUMaVOS (Bekuzarov et al., *XMem++: Production-level Video Segmentation From Few Annotated Frames*, ICCV
2023), CC BY 4.0 (clips/LICENSE), unchanged except that the masks are packed into one file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from etam_edge.errors import InputError

FOLDER = Path(__file__).resolve().parent / "clips"
CHAIR_VIDEO = FOLDER / "chair.mp4"
"""60 frames of 720 x 480: an office chair being turned, and its reflection in a window."""
_OUTLINE = ((50, 48), (138, 45), (150, 160), (235, 165), (238, 195), (205, 200), (75, 170))
CROSSING_SHAPE = (240, 320)
CROSSING_FRAMES = 60


def chair_masks() -> np.ndarray:
    """Ground-truth masks of the chair's reflection, bool (60, 480, 720)."""
    with np.load(FOLDER / "chair_masks.npz") as packed:
        frames, height, width = packed["shape"]
        return np.unpackbits(packed["bits"], axis=-1, count=int(width)).astype(bool).reshape(frames, height, width)


def chair_outline() -> np.ndarray:
    """Mask of the chair's back and seat in the first frame, bool (480, 720): a polygon drawn by hand."""
    image = Image.new("1", (720, 480))
    ImageDraw.Draw(image).polygon(_OUTLINE, fill=1)
    return np.asarray(image)


def write_clips(folder: Path) -> None:
    """Write both clips as a data set that `find_clips` reads: frames, prompts and ground truth.

    The reflection, the ball and the box have ground-truth masks; the chair itself, which is prompted too, has none.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHAIR_VIDEO, folder / "chair.mp4")
        reflection = chair_masks()
        _write_prompts(folder, "chair", [chair_outline(), reflection[0]])
        _write_masks(folder / "chair_masks", 2 * reflection.astype(np.uint8))
        frames, masks = crossing()
        (folder / "crossing").mkdir(exist_ok=True)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / "crossing" / f"{index:05d}.png", compress_level=1)
        _write_prompts(folder, "crossing", list(masks[0]))
        _write_masks(folder / "crossing_masks", masks[:, 0] + 2 * masks[:, 1].astype(np.uint8))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error


def _write_prompts(folder: Path, clip: str, masks: list[np.ndarray]) -> None:
    """Write masks of the first frame, and the prompts file that assigns them to objects 1, 2, ..."""
    entries = []
    for number, mask in enumerate(masks, 1):
        file = f"{clip}_object_{number}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file)
        entries.append({"frame": 0, "object": number, "mask": file})
    (folder / f"{clip}.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _write_masks(folder: Path, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for index, values in enumerate(labels):
        Image.fromarray(values).save(folder / f"{index:05d}.png")


def crossing(frames: int = CROSSING_FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic clip: a striped ball rolls past a box and hides it for some frames; the camera sways.

    Args:
        frames: number of frames N.

    Returns:
        frames: uint8 (N, 240, 320, 3) RGB.
        masks: bool (N, 2, 240, 320), the visible part of the ball and of the box.
    """
    height, width = CROSSING_SHAPE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    images = np.empty((frames, height, width, 3), np.uint8)
    masks = np.empty((frames, 2, height, width), bool)
    for index in range(frames):
        time = index / max(frames - 1, 1)
        sway_x, sway_y = 10 * np.sin(2 * np.pi * time), 5 * np.sin(4 * np.pi * time)
        image = _wall(x - sway_x, y - sway_y)
        box = (np.abs(x - 190 - sway_x) < 26) & (np.abs(y - 132 - sway_y) < 34)
        image[box] = _wood(x - sway_x, y - sway_y)[box]
        ball_x, ball_y, radius = 50 + 235 * time + sway_x, 135 + sway_y, 46
        ball = (x - ball_x) ** 2 + (y - ball_y) ** 2 < radius**2
        image[ball] = _stripes(x - ball_x, y - ball_y, radius, 235 * time / radius)[ball]
        grain = np.random.default_rng(index).normal(0, 3, (height, width, 1))
        images[index] = np.clip(image + grain, 0, 255).astype(np.uint8)
        masks[index] = ball, box & ~ball
    return images, masks


def _wall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey-green bricks, float32 (H, W, 3)."""
    row = np.floor(y / 22)
    column = np.floor((x + 20 * (row % 2)) / 40)
    tone = np.sin(12.9898 * row + 78.233 * column) * 43758.5453
    tone = 118 + 26 * (tone - np.floor(tone))
    joint = (np.mod(y, 22) < 2) | (np.mod(x + 20 * (row % 2), 40) < 2)
    tone = np.where(joint, 86, tone)
    return np.stack((0.92 * tone, tone, 0.84 * tone), -1).astype(np.float32)


def _wood(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    grain = 22 * np.sin(x / 5 + 1.8 * np.sin(y / 16)) + 9 * np.sin(x / 1.7)
    return np.stack((168 + grain, 112 + 0.8 * grain, 52 + 0.5 * grain), -1).astype(np.float32)


def _stripes(x: np.ndarray, y: np.ndarray, radius: float, turn: float) -> np.ndarray:
    along = x * np.cos(turn) + y * np.sin(turn)
    band = np.mod(np.floor(along / 13), 2)[..., None]
    shade = (1 - 0.45 * np.clip((x + y) / (2 * radius), -1, 1))[..., None]
    return (np.where(band > 0, (208, 52, 44), (236, 226, 208)) * shade).astype(np.float32)
