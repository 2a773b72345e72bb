"""Opens a source by the text that names it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from etam_edge.errors import InputError
from etam_edge.media.sources.folder import ImageFolder
from etam_edge.media.sources.images import IMAGE_SUFFIXES
from etam_edge.media.sources.live import SCHEMES, Camera, NetworkStream, shown_address
from etam_edge.media.sources.types import FrameSource, SourceOptions
from etam_edge.media.sources.video import VideoFile

KINDS = (
    "a video file, a folder of images, a camera by its number or device, "
    f"or an address that begins with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
)


def open_source(source: str, options: SourceOptions | None = None) -> FrameSource:
    """Open a source.

    Args:
        source: path of a video file or a folder of images; a camera's device (/dev/video0) or number, where no path
            has this name; or an address (rtsp://, rtsps://, http://, https://).
        options: how it is read.

    Raises:
        InputError: there is nothing at `source` that frames can be read from.
        RuntimeUnavailableError: PyAV is needed and not installed.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    if scheme is not None:
        return _open_address(scheme[1].lower(), source, options)
    kind = _kind_of_path(source)
    if kind is not None:
        return _open_path(Path(source), kind, options)
    if source.isdecimal():
        return Camera(int(source), options)
    if re.fullmatch(r"/dev/video\d+", source):
        return Camera(source, options)
    raise InputError(f"there is nothing at {source}; name {KINDS}")


def _open_address(scheme: str, source: str, options: SourceOptions | None) -> FrameSource:
    if scheme in SCHEMES:
        return NetworkStream(source, options)
    raise InputError(f"{shown_address(source)} has a scheme that is not known; name {KINDS}")


def _kind_of_path(source: str) -> int | None:
    """The type bits of a path's mode, or None where nothing has this path."""
    try:
        return stat.S_IFMT(Path(source).stat().st_mode)
    except (OSError, ValueError):
        return None


def _open_path(path: Path, kind: int, options: SourceOptions | None) -> FrameSource:
    if kind == stat.S_IFDIR:
        return ImageFolder(path, options)
    if kind == stat.S_IFCHR:
        return Camera(str(path), options)
    if kind != stat.S_IFREG:
        raise InputError(f"{path} is not a regular file; name {KINDS}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path} is one image; name the folder that holds the frames, or a video file")
    return VideoFile(path, options)
