"""Videos decoded by PyAV, which brings FFmpeg: one stream of one container, frame after frame, damage passed over."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.sources.depth import DepthRange, given_range
from etam_edge.media.sources.images import MAX_PIXELS
from etam_edge.media.sources.types import Cause, Ending

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

READ_ATTEMPTS = 100
"""Reading a file goes on after an error, unless it fails this many times in succession."""
TIMELESS = frozenset({"mpjpeg", "mjpeg", "rawvideo"})
"""Formats without times."""
POLL_SECONDS = 0.002
NO_FRAME_IN_TIME = "no frame came within the time limit"
DISPLAY_MATRIX = "DISPLAYMATRIX"


def import_pyav(
    user: str = "videos, cameras and streams need", instead: str = "use a folder of images and `masks`"
) -> Any:
    """The module of PyAV, with FFmpeg's own messages silenced.

    Args:
        user: what needs it, with its verb, for the message.
        instead: what to do without it.

    Raises:
        RuntimeUnavailableError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"{user} PyAV, which cannot be imported ({error}); install it with: "
            f'pip install "etam-edge[video]", or {instead}'
        ) from error
    av.logging.set_level(None)
    return av


def open_container(
    target: str,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
) -> InputContainer:
    """Open a file, device or address.

    Args:
        target: an address, or the absolute path of a file or device: FFmpeg takes what stands before a colon in a
            relative path, such as 10:30:00.mp4, for a protocol.
        container_format: FFmpeg's name of the format; None to find it.
        options: of FFmpeg.
        timeout: seconds for opening and for each read.

    Raises:
        av.FFmpegError: it cannot be opened.
        RuntimeUnavailableError: PyAV is not installed.
    """
    container: InputContainer = import_pyav().open(
        target,
        format=container_format,
        options={"max_pixels": str(MAX_PIXELS), **(options or {})},
        metadata_errors="replace",
        timeout=timeout,
    )
    return container


class Decoder:
    """Decodes the first video stream of a container. Iterate once; it closes the container at the end.

    Args:
        container: opened.
        where: names the source in error messages.
        depth_range: of `SourceOptions`.
        stop: ends the iteration before its next frame, when it is set from any thread.
        is_live: whether an error of reading ends it: a connection or device is lost then.
        read_seconds: time limit of a live source's frame.

    Attributes:
        rate: average frames per second, or None.
        announced: number of frames that the container announces, or None.
        invents_times: whether the container states no times, and FFmpeg counts in steps of its own.
        given, lost, damaged: numbers of frames so far.
        depth_range: counts that become black and white, once a frame of more than 8 bits of grey was converted.
        ending: set at the end of the iteration.

    Raises:
        InputError: the container has no video stream.
    """

    def __init__(
        self,
        container: InputContainer,
        where: str,
        depth_range: tuple[float, float] | None,
        stop: threading.Event,
        is_live: bool,
        read_seconds: float = 10.0,
    ) -> None:
        self._av = import_pyav()
        self._container = container
        self._where = where
        self._depth_range = depth_range
        self._is_live = is_live
        self._read_seconds = read_seconds
        if not container.streams.video:
            raise InputError(f"{where} has no video stream; name another source")
        self._stream = container.streams.video[0]
        # Threads that decode several frames at once would delay live frames. And where a frame near a file's end is
        # damaged, those behind it that are in the threads would be lost: as many as the machine has cores.
        self._stream.thread_type = "SLICE"
        rate = self._stream.average_rate
        self.rate = float(rate) if rate and 0 < rate < 1000 else None
        self.announced = self._stream.frames or None
        self._indexed = _indexed(container, self._stream)
        self._packets_read = 0
        self.invents_times = container.format.name in TIMELESS
        # A stream is joined, and a recording of one begins, between two key frames: what comes before the next one
        # cannot be decoded, and is no damage.
        self._joins = is_live or container.format.name == "mpegts"
        self.given = self.lost = self.damaged = 0
        self.ending: Ending | None = None
        self._stop = stop
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._depth: DepthRange | None = None
        self.depth_range: tuple[float, float] | None = None

    def close(self) -> None:
        """Free the container. Not while another thread iterates."""
        self._container.close()

    def __iter__(self) -> Generator[VideoFrame, None, None]:
        cause, message = Cause.CLOSED, ""
        latest = time.monotonic()
        try:
            for packet in self._packets():
                if self._is_live and time.monotonic() - latest > self._read_seconds:
                    # Packets come, and no frame can be decoded from them.
                    raise _Break(Cause.STALLED, NO_FRAME_IN_TIME)
                for frame in self._decoded(packet):
                    if self._stop.is_set():
                        return
                    self.given += 1
                    self._joins = self._joins and bool(frame.is_corrupt)
                    self.damaged += bool(frame.is_corrupt) and not self._joins
                    yield frame
                    latest = time.monotonic()
            if not self._stop.is_set():
                cause = Cause.END
                if self._indexed is not None and self._packets_read < self._indexed:
                    self.lost = self._indexed - self.given
        except _Break as broken:
            cause, message = broken.cause, broken.message
        finally:
            if message and self.announced:
                self.lost = max(self.lost, self.announced - self.given)
            self.ending = Ending(cause, self.given, self.lost, self.damaged, message)
            self._container.close()

    def _packets(self) -> Iterator[Packet]:
        """All packets of the stream, then an empty one that makes the decoder give its last frames.

        Raises:
            _Break: nothing more can be read.
        """
        failures = 0
        packets = self._container.demux(self._stream)
        latest = time.monotonic()
        while not self._stop.is_set():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.BlockingIOError:
                if time.monotonic() - latest > self._read_seconds:
                    raise _Break(Cause.STALLED, NO_FRAME_IN_TIME) from None
                packets = self._container.demux(self._stream)
                self._stop.wait(POLL_SECONDS)
                continue
            except (self._av.error.ExitError, self._av.error.TimeoutError):
                raise _Break(Cause.STALLED, NO_FRAME_IN_TIME) from None
            except (self._av.FFmpegError, OSError) as error:
                failures += 1
                if self._is_live or failures == READ_ATTEMPTS:
                    raise _Break(Cause.BROKEN, f"reading failed ({_reason(error)})") from error
                packets = self._container.demux(self._stream)
                continue
            failures = 0
            latest = time.monotonic()
            self._packets_read += packet.size > 0
            yield packet

    def _decoded(self, packet: Packet) -> list[VideoFrame]:
        try:
            return self._stream.decode(packet)
        except (self._av.FFmpegError, OSError):
            if self._joins:
                return []
            # Behind the last packet, an error costs all frames that the decoder still holds.
            self.lost += 1 if packet.size else max(1, self._packets_read - self.given - self.lost)
            return []

    def timestamp(self, frame: VideoFrame) -> float | None:
        """Seconds on the stream's own clock, or None where the frame has none."""
        return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)

    def pixels(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3) RGB, turned as the stream's display matrix says.

        Raises:
            InputError: it is grey of more than 8 bits, and no `depth_range` was given.
        """
        if frame.format.name.startswith("gray") and frame.format.components[0].bits > 8:
            if self._depth is None:
                self._depth = given_range(self._depth_range, self._where)
                self.depth_range = (self._depth.low, self._depth.high)
            image = self._depth.scaled(_counts(frame))
        else:
            image = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return turned(image, _matrix(frame))


class _Break(Exception):
    """Nothing more can be read."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


def _indexed(container: InputContainer, stream: VideoStream) -> int | None:
    """Number of frames in the index of an MP4 file, or None. Where the file is cut short, its end comes before them."""
    entries = getattr(stream, "index_entries", None)
    return len(entries) if entries is not None and "mp4" in container.format.name.split(",") else None


def _reason(error: Exception) -> str:
    """FFmpeg's words for an error, without names or addresses, which may hold a password."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _counts(frame: VideoFrame) -> np.ndarray:
    """The counts of a grey frame, (H, W)."""
    try:
        return frame.to_ndarray()
    except ValueError:
        return frame.to_ndarray(format="gray16le")


def _matrix(frame: VideoFrame) -> np.ndarray | None:
    """The display matrix, int32 (3, 3), or None."""
    data = frame.side_data.get(DISPLAY_MATRIX)
    return None if data is None else np.frombuffer(bytes(cast(Any, data)), dtype=np.int32, count=9).reshape(3, 3)


def turned(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """An image (H, W, C) turned by quarters and mirrored, as a display matrix says.

    Args:
        image: as stored.
        matrix: (3, 3), of which [[a, b], [c, d]] takes the pixel (x, y) to (a x + c y, b x + d y); None for no turn.
    """
    if matrix is None:
        return image
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        image, right, down = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])
