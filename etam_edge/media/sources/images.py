"""Image files, read by Pillow: only regular files of the formats below, of a bounded size, turned upright.

Everything in the package that reads an image file uses this module; ruff refuses `PIL.Image.open` elsewhere. By itself,
Pillow recognizes some forty formats by their content, whatever the name says, and hands PostScript to another program.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from etam_edge.errors import InputError
from etam_edge.media.sources.depth import DepthRange

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 1 << 27
"""Largest number of pixels of an image or a video frame: 134 million, which as RGB take 403 MB."""
LOW_BYTES = 16
"""High bytes of 16-bit colours below this one mean that at most 12 of the bits are used."""


def load_image(file: Path, what: str = "an image") -> Image.Image:
    """An image file, decoded and turned as its orientation (EXIF) says, in the mode that the file has.

    Args:
        file: path.
        what: names the file's role in error messages, with an article.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a regular file, not an image of FORMATS, too large, or damaged.
    """
    descriptor = _open_regular(file)
    try:
        # Pillow warns of sizes that are allowed here, and of damaged metadata, which is not used.
        with os.fdopen(descriptor, "rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(handle, formats=FORMATS) as image:  # noqa: TID251 - the one place
                _check(image, file)
                wide = _is_wide(image)
                image.load()
            if wide:
                _check_wide(image, file)
            return _upright(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{file} is not {what} of a kind that is read ({', '.join(FORMATS)}); save it as PNG, or take it away"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{file} has more than the {MAX_PIXELS} pixels that are read; scale it down") from None
    except Exception as error:
        # Whatever a decoder raises on a damaged file: Pillow's raise some fifteen types, struct.error among them.
        raise InputError(f"{file} is damaged or cannot be read ({error}); save it again") from error


def read_image(file: Path, depth: DepthRange | None = None) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    Args:
        file: path.
        depth: range of grey images of more than 8 bits.

    Raises:
        InputError: as of `load_image`; or it is of more than 8 bits and `depth` is None, or the other way round.
    """
    image = load_frame(file)
    if is_deep(image):
        if depth is None:
            raise InputError(
                f"{file} is a grey image of more than 8 bits, and the clip begins with one of 8 bits; keep one kind"
            )
        return depth.scaled(np.asarray(image))
    if depth is not None:
        raise InputError(
            f"{file} is an image of 8 bits, and `depth_range` or the clip's first image is about grey images of more; "
            "keep one kind"
        )
    return np.asarray(image.convert("RGB"))


def load_frame(file: Path) -> Image.Image:
    """As `load_image`, for a file that was there when its folder was listed.

    Raises:
        InputError: as of `load_image`; or the file is gone, or of a mode that cannot be converted to RGB.
    """
    try:
        image = load_image(file)
    except FileNotFoundError:
        raise InputError(f"{file} is gone; do not change the folder while it is read") from None
    if image.mode == "LAB":
        raise InputError(f"{file} has Lab colours; save it as RGB")
    return image


def is_deep(image: Image.Image) -> bool:
    """Whether it is a grey image of more than 8 bits: 16-bit, 32-bit or floating-point counts."""
    return image.mode.startswith(("I", "F"))


def _open_regular(file: Path) -> int:
    """A descriptor of a regular file. Opening a FIFO would wait for a writer, and a device may have no end.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be opened, or is not a regular file.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{file} cannot be read ({reason}); name another") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{file} is not a regular file; name another")
    return descriptor


def _check(image: Image.Image, file: Path) -> None:
    """Refuse an image by its header, before it is decoded.

    Raises:
        InputError: it is too large, or one of several in the file.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{file} has more than the {MAX_PIXELS} pixels that are read; scale it down")
    # The second image of a JPEG (MPO) is a preview or a depth map of a phone's camera.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(f"{file} holds several images; save each as a file of its own")


def _is_wide(image: Image.Image) -> bool:
    """Whether the file has colours of 16 bits, of which Pillow reads the high byte."""
    return image.mode[0] not in "IF" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _check_wide(image: Image.Image, file: Path) -> None:
    """
    Raises:
        InputError: only the low bits of 16-bit colours are used, so that the high bytes are nearly black.
    """
    if int(np.asarray(image)[..., :3].max(initial=0)) < LOW_BYTES:
        raise InputError(f"{file} has 16-bit colours of which only the low 12 bits are used; save it with 8 bits")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:
        # Damaged metadata says nothing about the pixels.
        return image
    turned.format = image.format
    return turned
