"""Masks as PNG files, one for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from etam_edge.atomic import AtomicFile, check_parent, make_directories, remove_empty, remove_left_over
from etam_edge.errors import InputError
from etam_edge.media.overlay import PALETTE
from etam_edge.media.sinks.base import cannot_write
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

LARGEST_ID = 65535
"""Of an object in a PNG of 16 bits."""
LARGEST_PALETTE_ID = 255
_SOFTWARE = "Software", "etam-edge"
"""Text in every mask, by which `overwrite` tells masks from other images."""
_HEAD = 4096
"""Bytes at the beginning of a mask that hold this text, behind the palette."""


class MaskFolder:
    """A folder of PNGs, one for each frame: a pixel's value is the object's id.

    Ids up to 255 make palette images as in DAVIS annotations. With a larger id, up to 65535, images are grey with 16
    bits. Where masks overlap, the pixel belongs to the object with the higher score; of two equal scores, to the one
    that is later in the result.

    Args:
        path: of the folder, which is made where it does not exist.
        object_ids: that are known beforehand. All masks have 16 bits where one of them needs it; else those from the
            first larger id on.
        overwrite: remove the masks of an earlier run before the first one is written. Without it, the folder must be
            empty.

    Raises:
        InputError: the folder cannot be written or is not empty, or an id is not from 1 to 65535.
    """

    def __init__(self, path: Path, object_ids: Sequence[int] = (), overwrite: bool = False) -> None:
        _check_ids(object_ids)
        self.path = path
        self._overwrite = overwrite
        self._wide = any(object_id > LARGEST_PALETTE_ID for object_id in object_ids)
        self._text = PngInfo()
        self._text.add_text(*_SOFTWARE)
        self._made: list[Path] = []
        try:
            self._made = make_directories(path)
            remove_left_over(path)
            check_parent(path / "mask.png")
            self._earlier = _earlier_masks(path, overwrite)
        except OSError as error:
            remove_empty(self._made)
            raise _refusal(path, error) from error

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        _check_ids(result.object_ids)
        self._wide |= any(object_id > LARGEST_PALETTE_ID for object_id in result.object_ids)
        image = Image.fromarray(values_of(result, np.uint16 if self._wide else np.uint8))
        if not self._wide:
            image.putpalette(PALETTE.tobytes())
        target = self.path / f"{frame.name}.png"
        try:
            self._remove_earlier()
            self._save(image, target)
        except FileExistsError:
            raise InputError(f"{target} was written by another process meanwhile; name another `masks`") from None
        except OSError as error:
            raise cannot_write(target, error) from error

    def close(self) -> None:
        """Nothing to do: every mask is complete."""

    def discard(self) -> None:
        """Remove the folder if it was made and is empty; complete masks are kept."""
        remove_empty(self._made)

    def _save(self, image: Image.Image, target: Path) -> None:
        pending = AtomicFile(target, self._overwrite, tidy=False)
        try:
            with open(pending.temporary, "wb") as file:
                image.save(file, format="PNG", pnginfo=self._text)
            # Flushing every mask to the disk would take longer than tracking the frame.
            pending.commit(sync=False)
        finally:
            pending.discard()

    def _remove_earlier(self) -> None:
        while self._earlier:
            self._earlier.pop().unlink(missing_ok=True)


def values_of(result: FrameResult, kind: type[np.uint8] | type[np.uint16]) -> np.ndarray:
    """The id of the object that each pixel belongs to, 0 for none, (H, W).

    Where masks overlap, that is the object with the higher score; of two equal scores, the later one.
    """
    values = np.zeros(result.masks.shape[1:], dtype=kind)
    for row in np.argsort(result.object_scores, kind="stable"):
        values[result.masks[row]] = result.object_ids[row]
    return values


def check_folder(path: Path, object_ids: Sequence[int], overwrite: bool) -> None:
    """Refuse a folder that `MaskFolder` would refuse. Nothing is created.

    Raises:
        InputError: as of `MaskFolder`.
    """
    _check_ids(object_ids)
    try:
        if path.is_dir():
            _earlier_masks(path, overwrite)
            check_parent(path / "mask.png")
        elif path.exists():
            raise NotADirectoryError(0, "it is a file")
        else:
            check_parent(path)
    except OSError as error:
        raise _refusal(path, error) from error


def _check_ids(object_ids: Sequence[int]) -> None:
    beyond = [object_id for object_id in object_ids if not 1 <= object_id <= LARGEST_ID]
    if beyond:
        raise InputError(
            f"object {beyond[0]} cannot be written to `masks`: a PNG holds ids 1 to {LARGEST_ID}; renumber it"
        )


def _earlier_masks(path: Path, overwrite: bool) -> list[Path]:
    """
    Raises:
        InputError: the folder holds something that is not to be removed.
        OSError: it cannot be read.
    """
    found = sorted(path.iterdir())
    if found and not overwrite:
        raise InputError(
            f"`masks={path}` is not empty; add `overwrite=True` to remove the masks in it, or name another folder"
        )
    for file in found:
        if not _is_own(file):
            raise InputError(
                f"`masks={path}` holds {file.name}, which is no mask that etam-edge wrote and is not removed; name "
                "another folder"
            )
    return found


def _is_own(file: Path) -> bool:
    if not file.is_file() or file.suffix != ".png":
        return False
    with open(file, "rb") as opened:
        return b"tEXt" + "\0".join(_SOFTWARE).encode() in opened.read(_HEAD)


def _refusal(path: Path, error: OSError) -> InputError:
    return InputError(f"`masks={path}` cannot be written ({error.strerror}); name another folder")
