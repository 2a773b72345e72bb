"""Cameras and network streams, decoded by PyAV."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from etam_edge.errors import InputError
from etam_edge.media.sources.live_source import LiveSource
from etam_edge.media.sources.pyav import Decoder, import_pyav, open_container
from etam_edge.media.sources.types import NamedFrame, SourceOptions

if TYPE_CHECKING:
    from av.container import InputContainer

SCHEMES = ("rtsp", "rtsps", "http", "https")
CLOCKS_AGREE = 60.0
"""Timestamps within this many seconds of `time.monotonic()` are taken for readings of the same clock."""


class StreamClock:
    """Times of a stream's frames from its first one: those that it states, else by arrival.

    Some streams state no time of their first frames (RTSP, before the first report of its server) or none at all.
    """

    def __init__(self) -> None:
        self._begin: float | None = None
        self._origin: float | None = None
        self._latest = 0.0

    def timestamp(self, stated: float | None, now: float) -> float:
        """Seconds from the first frame, never less than for the frame before.

        Args:
            stated: time on the stream's own clock, or None.
            now: when the frame arrived.
        """
        if self._begin is None:
            self._begin = now
        elapsed = now - self._begin
        if stated is not None:
            if self._origin is None:
                self._origin = stated - elapsed
            elapsed = stated - self._origin
        self._latest = max(self._latest, elapsed)
        return self._latest


class DecodedStream(LiveSource):
    """Frames of a container that PyAV reads from a camera or the network."""

    def _open(self, container: InputContainer, where: str, options: SourceOptions) -> None:
        """Begin to read an opened container.

        Raises:
            InputError: it has no video, or no frame comes.
        """
        self._decoder = Decoder(
            container, where, options.depth_range, self._stop, is_live=True, read_seconds=options.read_seconds
        )
        self.frames_per_second = self._decoder.rate
        self._begin(where)

    def _read(self) -> Generator[NamedFrame, None, None]:
        decoder = self._decoder
        clock = StreamClock()
        try:
            with closing(iter(decoder)) as frames:
                for index, frame in enumerate(frames):
                    now = time.monotonic()
                    stated = decoder.timestamp(frame)
                    # Video4Linux states the time of capture by this clock.
                    captured = stated if stated is not None and 0 <= now - stated < CLOCKS_AGREE else now
                    timestamp = clock.timestamp(None if decoder.invents_times else stated, now)
                    pixels = decoder.pixels(frame)
                    self.depth_range = decoder.depth_range
                    yield NamedFrame(f"{index:05d}", pixels, index, timestamp, captured)
        finally:
            self.ending = decoder.ending


class Camera(DecodedStream):
    """A camera of Video4Linux.

    Args:
        camera: its number N, for /dev/videoN, or the path of its device.
        options: a `size` is requested from the camera, which may choose another.

    Raises:
        InputError: the camera does not open, or gives no frame.
        RuntimeUnavailableError: PyAV is not installed.
    """

    def __init__(self, camera: int | str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        device = f"/dev/video{camera}" if isinstance(camera, int) else camera
        where = f"camera {camera}"
        super().__init__(re.sub(r"\D*(\d+)$", r"camera\1", os.path.basename(device)), options.section)
        av = import_pyav()
        # Without blocking, time limits hold and `close` is seen while no frame comes.
        settings = {"fflags": "nonblock"}
        if options.size is not None:
            settings["video_size"] = "{1}x{0}".format(*options.size)
        try:
            # The system says why a device does not open more exactly than FFmpeg.
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            container = open_container(device, "v4l2", settings, (options.open_seconds, options.read_seconds))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{where} does not open: {_camera_fault(device, error)}") from error
        self._open(container, where, options)


class NetworkStream(DecodedStream):
    """An RTSP stream, an MJPEG stream, or another video that FFmpeg reads by HTTP.

    Args:
        address: beginning with one of SCHEMES. Its user name and password are used and never shown.
        options: of which the time limits, `depth_range` and the section are used.

    Raises:
        InputError: the address cannot be reached in time, refuses, or sends no video.
        RuntimeUnavailableError: PyAV is not installed.
    """

    def __init__(self, address: str, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        where = shown_address(address)
        super().__init__(re.sub(r"\W+", "_", urlsplit(where).hostname or "stream"), options.section)
        av = import_pyav()
        settings = {"fpsprobesize": "0"}
        if where.startswith("rtsp"):
            settings["rtsp_flags"] = "prefer_tcp"
        begin = time.monotonic()
        try:
            container = open_container(address, None, settings, (options.open_seconds, options.read_seconds))
        except (av.FFmpegError, OSError, ValueError) as error:
            if time.monotonic() - begin >= options.open_seconds:
                fault = f"no answer within {options.open_seconds:g} s; check the address and the network"
                raise InputError(f"{where} does not open: {fault}") from None
            # The chain is cut: FFmpeg's own error holds the address with its password.
            raise InputError(f"{where} does not open: {_network_fault(error)}") from None
        self._open(container, where, options)


def shown_address(address: str) -> str:
    """An address without user name, password and query, which may hold secrets, for messages."""
    scheme, _, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{place.rpartition('@')[2]}{slash}{re.split('[?#]', path)[0]}"


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


def _network_fault(error: Exception) -> str:
    """What is wrong and what to do, without FFmpeg's own text, which may hold the address with its password."""
    faults = import_pyav().error
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
