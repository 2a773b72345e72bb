"""Cameras and network streams, decoded by PyAV."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from etam_edge.errors import InputError
from etam_edge.media.sources.pyav import Decoder, import_pyav, open_container
from etam_edge.media.sources.types import Ending, NamedFrame, SourceOptions

SCHEMES = ("rtsp", "rtsps", "http", "https")
CLOCKS_AGREE = 60.0
"""Timestamps within this many seconds of `time.monotonic()` are taken for readings of the same clock."""


class LiveVideo:
    """Frames of a camera or a network stream, named by their number.

    Args:
        decoder: of the opened device or stream, which is read from once.
        stem: name of the source.
        where: names the source in error messages.

    Raises:
        InputError: no frame comes.
    """

    path: Path | None = None
    is_live = True
    length: int | None = None

    def __init__(self, decoder: Decoder, stem: str, where: str) -> None:
        self.stem = stem
        self.frames_per_second = decoder.rate
        self._decoder = decoder
        self._frames = self._read()
        first = next(self._frames, None)
        if first is None:
            ending = decoder.ending
            reason = f": {ending.message}" if ending is not None and ending.message else ""
            raise InputError(f"{where} gives no frame{reason}; check that it is sending and not in use elsewhere")
        self._first: NamedFrame | None = first
        self.frame_shape: tuple[int, int] = first.pixels.shape[:2]

    @property
    def ending(self) -> Ending | None:
        return self._decoder.ending

    def count(self) -> int | None:
        return None

    def close(self) -> None:
        self._decoder.stop()

    def __iter__(self) -> Iterator[NamedFrame]:
        try:
            if self._first is not None:
                first, self._first = self._first, None
                yield first
            yield from self._frames
        finally:
            self._frames.close()  # type: ignore[attr-defined]

    def _read(self) -> Iterator[NamedFrame]:
        decoder = self._decoder
        origin: float | None = None
        for index, frame in enumerate(decoder):
            now = time.monotonic()
            stated = decoder.timestamp(frame)
            captured = stated if stated is not None and abs(now - stated) < CLOCKS_AGREE else now
            moment = now if stated is None or decoder.invents_times else stated
            origin = moment if origin is None else origin
            yield NamedFrame(f"{index:05d}", decoder.pixels(frame), index, moment - origin, captured)


class Camera(LiveVideo):
    """A camera of Video4Linux.

    Args:
        camera: its number N, for /dev/videoN, or the path of its device.
        options: a `frame_size` is requested from the camera, which may choose another.

    Raises:
        InputError: the camera does not open, or gives no frame.
        RuntimeUnavailableError: PyAV is not installed.
    """

    def __init__(self, camera: int | str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        device = f"/dev/video{camera}" if isinstance(camera, int) else camera
        where = f"camera {camera}"
        av = import_pyav()
        settings = {"fflags": "nonblock"}
        if options.frame_size is not None:
            settings["video_size"] = "{1}x{0}".format(*options.frame_size)
        try:
            # FFmpeg's list of errors has no "device in use": the device is opened here first.
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            container = open_container(device, "v4l2", settings, (options.open_seconds, options.read_seconds))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{where} does not open: {_camera_fault(device, error)}") from error
        decoder = Decoder(container, where, options.depth_range, is_live=True, read_seconds=options.read_seconds)
        stem = re.sub(r"\D*(\d+)$", r"camera\1", os.path.basename(device))
        super().__init__(decoder, stem, where)


class NetworkStream(LiveVideo):
    """An RTSP stream, an MJPEG stream, or another video that FFmpeg reads by HTTP.

    Args:
        address: beginning with one of SCHEMES. Its user name and password are used and never shown.
        options: of which the time limits and `depth_range` are used.

    Raises:
        InputError: the address cannot be reached in time, refuses, or sends no video.
        RuntimeUnavailableError: PyAV is not installed.
    """

    def __init__(self, address: str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        where = shown_address(address)
        av = import_pyav()
        settings = {"fflags": "nobuffer", "fpsprobesize": "0"}
        if address.lower().startswith("rtsp"):
            settings["rtsp_flags"] = "prefer_tcp"
        try:
            container = open_container(address, options=settings, timeout=(options.open_seconds, options.read_seconds))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{where} does not open: {_network_fault(error, options.open_seconds)}") from None
        decoder = Decoder(container, where, options.depth_range, is_live=True)
        super().__init__(decoder, re.sub(r"\W+", "_", urlsplit(where).hostname or "stream"), where)


def shown_address(address: str) -> str:
    """An address without user name, password and query, which may hold secrets, for messages."""
    parts = urlsplit(address)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


def _camera_fault(device: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENAMETOOLONG):
        return f"there is no {device}; `ls /dev/video*` shows what there is"
    if number == errno.EBUSY:
        return f"{device} is in use by another program; end that one (`fuser {device}` names it)"
    if number in (errno.EACCES, errno.EPERM):
        return f"{device} may not be read; add the user to the group that owns it (`sudo usermod -aG video $USER`)"
    if number in (errno.ENXIO, errno.ENODEV):
        return f"no camera is connected to {device}; plug it in again"
    return f"{device} is not a camera that gives pictures ({getattr(error, 'strerror', None) or error}); name another"


def _network_fault(error: Exception, seconds: float) -> str:
    """What is wrong and what to do, without FFmpeg's own text, which may hold the address with its password."""
    av = import_pyav()
    faults = av.error
    if isinstance(error, faults.ExitError | faults.TimeoutError):
        return f"no answer within {seconds:g} s; check the address and the network"
    if isinstance(error, faults.ConnectionRefusedError):
        return "the host refuses the connection; check the port, and that the server runs"
    if isinstance(error, faults.HTTPUnauthorizedError | faults.HTTPForbiddenError):
        return "the server refuses the user name or password; check the part before @ in the address"
    if isinstance(error, faults.HTTPNotFoundError):
        return "the server has nothing under this path; check the address"
    if isinstance(error, faults.HTTPClientError | faults.HTTPServerError):
        return "the server answers with an error; check its log"
    if isinstance(error, faults.InvalidDataError):
        return "what it sends is not a video that FFmpeg can read; check the address"
    if isinstance(error, faults.OSError) or getattr(error, "errno", None) == errno.EIO:
        return "the host cannot be reached; check its name and the network"
    return f"it cannot be read ({type(error).__name__}); check the address"
