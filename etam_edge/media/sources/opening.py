"""Opens a source by the text that names it."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

from etam_edge.errors import InputError
from etam_edge.media.sources.folder import ImageFolder
from etam_edge.media.sources.gstreamer import Pipeline, csi_pipeline, v4l2_pipeline, without_secrets
from etam_edge.media.sources.images import IMAGE_SUFFIXES
from etam_edge.media.sources.live import SCHEMES, Camera, NetworkStream, shown_address
from etam_edge.media.sources.raw import RawFrames
from etam_edge.media.sources.types import FrameSource, SourceOptions
from etam_edge.media.sources.video import VideoFile

SHORTHANDS: dict[str, Callable[[str], str]] = {"csi": csi_pipeline, "v4l2": v4l2_pipeline}
"""GStreamer pipelines by scheme."""
STANDARD_INPUT = "-"
KINDS = (
    "a video file, a folder of images, a camera by its number or device, an address that begins with "
    f"{', '.join(f'{scheme}://' for scheme in (*SCHEMES, *SHORTHANDS))}, or a GStreamer pipeline that ends in `appsink`"
)


def open_source(source: str, options: SourceOptions | None = None) -> FrameSource:
    """Open a source.

    Args:
        source: path of a video file or a folder of images; a camera's device (/dev/video0) or number, where no path
            has this name; an address (rtsp://, rtsps://, http://, https://); csi://N or v4l2://N for a camera read by
            GStreamer; a GStreamer pipeline that ends in `appsink`; or "-" for raw frames on standard input.
        options: how it is read.

    Raises:
        InputError: there is nothing at `source` that frames can be read from.
        RuntimeUnavailableError: PyAV, or PyGObject and GStreamer, are needed and not installed.
    """
    if source == STANDARD_INPUT:
        return RawFrames(options)
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
    if _is_pipeline(source):
        return Pipeline(source, options)
    raise InputError(f"there is nothing at {source}; name {KINDS}")


def shown_source(source: str) -> str:
    """The text that names a source, without the user names and passwords in it, for messages."""
    if "://" not in source:
        return source
    return without_secrets(source) if _is_pipeline(source) else shown_address(source)


def _is_pipeline(source: str) -> bool:
    return re.search(r"\s!\s|\bappsink\b", source) is not None


def _open_address(scheme: str, source: str, options: SourceOptions | None) -> FrameSource:
    if scheme in SCHEMES:
        return NetworkStream(source, options)
    if scheme in SHORTHANDS:
        stem = re.sub(r"\W+", "_", source.partition("?")[0])
        return Pipeline(SHORTHANDS[scheme](source), options, stem, source)
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
        return Camera(str(path.absolute()), options)
    if kind != stat.S_IFREG:
        raise InputError(f"{path} is not a regular file; name {KINDS}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path} is one image; name the folder that holds the frames, or a video file")
    return VideoFile(path, options)
