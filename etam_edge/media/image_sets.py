"""Images with ground-truth masks of their objects: COCO JSON, or label images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from etam_edge.errors import InputError
from etam_edge.media.sources.images import IMAGE_SUFFIXES, load_image, read_image
from etam_edge.runtimes.rle import decode_rle

LABEL_FOLDERS = ("instances", "masks", "labels", "Annotations")
LAYOUTS = (
    "a folder with images/ and instances/ (label images NAME.png) or one COCO JSON file, or a folder of images with "
    "`annotations`"
)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image whose objects are known.

    Attributes:
        file: of the image.
        annotations: COCO annotations of it, or the file of its label image.
    """

    file: Path
    annotations: list[dict[str, Any]] | Path

    def read(self) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """The image, uint8 (H, W, 3) RGB, and the masks of its objects, bool (H, W), by number.

        Objects without a pixel and groups (`iscrowd`) are left out.

        Raises:
            InputError: a file is damaged, or its sizes do not fit.
        """
        pixels = read_image(self.file)
        if isinstance(self.annotations, Path):
            masks = _labels(self.annotations, pixels.shape[:2])
        else:
            masks = {
                number: _annotated(annotation, pixels.shape[:2], self.file)
                for number, annotation in enumerate(self.annotations, start=1)
                if not annotation.get("iscrowd")
            }
        return pixels, {number: mask for number, mask in masks.items() if mask.any()}


def find_images(path: Path, annotations: Path | None = None, max_images: int | None = None) -> list[LabelledImage]:
    """The labelled images of a data set, in the order of their names.

    Args:
        path: folder with `images/` and its annotations, or a folder of images.
        annotations: COCO JSON file, or folder of label images; None to look for them in `path`.
        max_images: take this many, evenly spaced; None for all.

    Raises:
        InputError: there are no images or no annotations, or these cannot be read.
    """
    folder = path / "images" if (path / "images").is_dir() else path
    if not folder.is_dir():
        raise InputError(f"there are no images at {path}; give {LAYOUTS}")
    if annotations is None:
        annotations = _annotations_in(path)
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    found = list(_of_coco(files, annotations) if annotations.is_file() else _of_labels(files, annotations))
    if not found:
        raise InputError(f"no image of {folder} has annotations in {annotations}; give {LAYOUTS}")
    if max_images is not None and max_images < len(found):
        found = [found[place] for place in np.linspace(0, len(found) - 1, max_images).round().astype(int)]
    return found


def _annotations_in(path: Path) -> Path:
    for name in LABEL_FOLDERS:
        if (path / name).is_dir():
            return path / name
    files = sorted(path.glob("*.json"))
    if len(files) == 1:
        return files[0]
    what = "no annotations" if not files else f"{len(files)} JSON files"
    raise InputError(f"{path} holds {what}; name them with `annotations`, or give {LAYOUTS}")


def _of_labels(files: list[Path], folder: Path) -> Iterator[LabelledImage]:
    if not folder.is_dir():
        raise InputError(f"there are no annotations at {folder}; give {LAYOUTS}")
    for file in files:
        labels = folder / f"{file.stem}.png"
        if labels.is_file():
            yield LabelledImage(file, labels)


def _of_coco(files: list[Path], path: Path) -> Iterator[LabelledImage]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: Path(image["file_name"]).name for image in data["images"]}
        by_name: dict[str, list[dict[str, Any]]] = {}
        for annotation in data["annotations"]:
            by_name.setdefault(names[annotation["image_id"]], []).append(annotation)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a COCO data set ({error!r}); it needs `images` with `file_name` and `annotations`"
        ) from error
    for file in files:
        if file.name in by_name:
            yield LabelledImage(file, by_name[file.name])


def _labels(file: Path, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
    image = load_image(file, "a label image")
    values = np.asarray(image)
    if values.ndim != 2:
        raise InputError(f"{file} has mode {image.mode}; label images are grey or palette PNGs, one value an object")
    if values.shape != tuple(shape):
        raise InputError(
            f"{file} is {values.shape[1]} x {values.shape[0]} and its image {shape[1]} x {shape[0]} pixels"
        )
    return {int(value): values == value for value in np.unique(values) if value}


def _annotated(annotation: dict[str, Any], shape: tuple[int, ...], file: Path) -> np.ndarray:
    """
    Raises:
        InputError: the segmentation is none, or of another size than the image.
    """
    height, width = int(shape[0]), int(shape[1])
    try:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            picture = Image.new("1", (width, height))
            for polygon in segmentation:
                ImageDraw.Draw(picture).polygon([float(value) for value in polygon], outline=1, fill=1)
            return np.array(picture)
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']} and the image's {[height, width]}")
        return decode_rle(segmentation["counts"], (height, width))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file.name}: annotation {annotation.get('id')} has no usable mask ({error})") from error
