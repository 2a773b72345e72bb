"""GStreamer pipelines, by PyGObject: a description that ends in `appsink`, and shorthands for cameras."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Generator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.sources.depth import given_range
from etam_edge.media.sources.live_source import LiveSource
from etam_edge.media.sources.pixels import PixelConverter
from etam_edge.media.sources.types import Cause, Ending, NamedFrame, SourceOptions

PACKAGES = "python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base"
"""Debian packages of what a pipeline needs at least."""
FORMATS = {
    "RGB": "rgb24",
    "BGR": "bgr24",
    "RGBx": "rgb0",
    "BGRx": "bgr0",
    "RGBA": "rgb0",
    "BGRA": "bgr0",
    "GRAY8": "gray",
    "YUY2": "yuyv422",
    "NV12": "nv12",
    "I420": "yuv420p",
}
"""FFmpeg's names of GStreamer's formats, the preferred first."""
DEEP_FORMAT = "GRAY16_LE"
POLL_SECONDS = 0.1
SECOND = 1_000_000_000
"""GStreamer counts time in nanoseconds."""
ELEMENTS = {
    "gstreamer1.0-plugins-base": "appsink compositor decodebin decodebin3 playbin tcpclientsrc uridecodebin "
    "videoconvert videorate videoscale videotestsrc",
    "gstreamer1.0-plugins-good": "avidemux deinterlace flvdemux jpegdec matroskademux multifilesrc multipartdemux "
    "pngdec qtdemux rtph264depay rtph265depay rtpjitterbuffer rtpjpegdepay rtspsrc udpsrc v4l2src "
    "videocrop videoflip vp8dec vp9dec ximagesrc",
    "gstreamer1.0-plugins-bad": "av1parse decklinkvideosrc h264parse h265parse hlsdemux jpegparse openh264dec srtsrc "
    "tsdemux webrtcbin",
    "gstreamer1.0-plugins-ugly": "mpeg2dec x264enc",
    "gstreamer1.0-libcamera": "libcamerasrc",
    "gstreamer1.0-pipewire": "pipewiresrc",
    "gstreamer1.0-rtsp": "rtspclientsink",
    "nvidia-l4t-gstreamer": "nvarguscamerasrc nvcompositor nvjpegdec nvv4l2camerasrc nvv4l2decoder nvvidconv",
}
"""Elements that are common in pipelines of cameras and videos, by their Debian package (the last is JetPack's)."""


def import_gstreamer() -> tuple[Any, Any, Any]:
    """The modules Gst, GstVideo and GLib, initialized.

    Raises:
        RuntimeUnavailableError: PyGObject or GStreamer is not installed, or cannot be seen from here.
    """
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        from gi.repository import GLib, Gst, GstVideo
    except (ImportError, ValueError) as error:
        raise RuntimeUnavailableError(
            f"GStreamer pipelines need PyGObject and GStreamer, which cannot be imported ({error}); install them with: "
            f"sudo apt install {PACKAGES} (a virtual environment sees "
            "them if it is made with `python3 -m venv --system-site-packages`)"
        ) from error
    Gst.init(None)
    return Gst, GstVideo, GLib


class Pipeline(LiveSource):
    """The frames that a GStreamer pipeline sends to its `appsink`.

    Args:
        description: as gst-launch-1.0 takes it, with one `appsink` as the last element.
        options: of which `depth_range`, the section and the time limits are used.
        stem: name of the source.
        where: names the source in error messages. The description itself is not shown: it may hold a password.

    Raises:
        InputError: the description cannot be used, an element's plugin is missing, or no frame comes.
        RuntimeUnavailableError: PyGObject or GStreamer is not installed.
    """

    def __init__(
        self,
        description: str,
        options: SourceOptions | None = None,
        stem: str = "pipeline",
        where: str = "the GStreamer pipeline",
    ) -> None:
        self._options = options or SourceOptions()
        self._where = where
        self._gst, self._video, self._glib = import_gstreamer()
        super().__init__(stem, self._options.section)
        self._pipeline = self._parsed(description)
        self._sink = self._appsink()
        self._converter: PixelConverter | None = None
        self._begin(where)

    def _parsed(self, description: str) -> Any:
        """
        Raises:
            InputError: the description has a mistake, or names an element that is not installed.
        """
        gst = self._gst
        context = gst.ParseContext.new()
        try:
            return gst.parse_launch_full(description, context, gst.ParseFlags.FATAL_ERRORS)
        except self._glib.Error as error:
            missing = context.get_missing_elements()
            if missing and error.matches(gst.ParseError.quark(), gst.ParseError.NO_SUCH_ELEMENT):
                raise InputError(f"{self._where}: {_missing(missing)}") from None
            raise InputError(
                f"{self._where} has a mistake ({without_secrets(error.message)}); try it with gst-launch-1.0 first"
            ) from None

    def _appsink(self) -> Any:
        """
        Raises:
            InputError: there is not exactly one.
        """
        found = []
        if isinstance(self._pipeline, self._gst.Bin):
            elements = self._pipeline.iterate_sinks()
            while True:
                result, element = elements.next()
                if result != self._gst.IteratorResult.OK:
                    break
                found.append(element)
        sinks = [one for one in found if one.get_factory() is not None and one.get_factory().get_name() == "appsink"]
        if len(sinks) != 1 or len(found) != 1:
            raise InputError(
                f"{self._where} must end in one `appsink`, which hands out the frames, and have no other sink; for "
                'example: "v4l2src ! videoconvert ! appsink"'
            )
        sink = sinks[0]
        if sink.get_property("caps") is None:
            names = ",".join([*FORMATS, DEEP_FORMAT])
            sink.set_property("caps", self._gst.Caps.from_string(f"video/x-raw,format=(string){{{names}}}"))
        return sink

    def _read(self) -> Generator[NamedFrame, None, None]:
        gst = self._gst
        index, cause, message = 0, Cause.CLOSED, ""
        origin: int | None = None
        try:
            is_live = self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.NO_PREROLL
            while not self._stop.is_set():
                limit = self._options.read_seconds if index else self._options.open_seconds
                sample, cause, message = self._sample(limit)
                if sample is None:
                    return
                now = time.monotonic()
                presented = sample.get_buffer().pts
                known = presented != gst.CLOCK_TIME_NONE
                if known and origin is None:
                    origin = presented
                timestamp = (presented - origin) / SECOND if known and origin is not None else None
                captured = now - self._age(sample) if is_live and known else now
                pixels = self._pixels(sample)
                if index == 0:
                    self.frames_per_second = self._rate(sample)
                yield NamedFrame(f"{index:05d}", pixels, index, timestamp, captured)
                index += 1
            cause, message = Cause.CLOSED, ""
        except GeneratorExit:
            cause, message = Cause.CLOSED, ""
            raise
        finally:
            self._pipeline.set_state(gst.State.NULL)
            self.ending = Ending(cause, index, message=message)

    def _sample(self, limit: float) -> tuple[Any, Cause, str]:
        """The next sample; or None, and why there is none."""
        bus = self._pipeline.get_bus()
        begin = time.monotonic()
        while not self._stop.is_set():
            sample = self._sink.emit("try-pull-sample", int(POLL_SECONDS * SECOND))
            if sample is not None:
                return sample, Cause.CLOSED, ""
            failure = bus.pop_filtered(self._gst.MessageType.ERROR)
            if failure is not None:
                return None, Cause.BROKEN, self._fault(*failure.parse_error())
            if self._sink.get_property("eos"):
                return None, Cause.END, ""
            if time.monotonic() - begin > limit:
                return None, Cause.STALLED, f"no frame came within {limit:g} s"
        return None, Cause.CLOSED, ""

    def _age(self, sample: Any) -> float:
        """Seconds since a live source captured the sample, by the pipeline's clock."""
        clock = self._pipeline.get_clock()
        running = sample.get_segment().to_running_time(self._gst.Format.TIME, sample.get_buffer().pts)
        if clock is None or running == self._gst.CLOCK_TIME_NONE:
            return 0.0
        return max(0.0, (clock.get_time() - self._pipeline.get_base_time() - running) / SECOND)

    def _rate(self, sample: Any) -> float | None:
        info = self._video.VideoInfo.new_from_caps(sample.get_caps())
        return info.fps_n / info.fps_d if info is not None and info.fps_n > 0 and info.fps_d > 0 else None

    def _pixels(self, sample: Any) -> np.ndarray:
        """uint8 (H, W, 3) RGB.

        Raises:
            InputError: the format is none of FORMATS.
        """
        caps = sample.get_caps()
        info = self._video.VideoInfo.new_from_caps(caps)
        name = caps.get_structure(0).get_value("format")
        if info is None or (name not in FORMATS and name != DEEP_FORMAT):
            raise InputError(
                f"{self._where} sends {name or 'no raw video'}, which is not read; put `videoconvert` before `appsink`"
            )
        buffer = sample.get_buffer()
        data = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), dtype=np.uint8)
        if name == DEEP_FORMAT:
            depth = given_range(self._options.depth_range, self._where)
            self.depth_range = (depth.low, depth.high)
            return depth.scaled(_plane(data, info, 0, info.height, 2 * info.width).view("<u2"))
        shape = (info.height, info.width)
        if self._converter is None or (self._converter.name, self._converter.frame_size) != (FORMATS[name], shape):
            self._converter = PixelConverter(FORMATS[name], shape)
        return self._converter.rgb(_without_padding(data, info, FORMATS[name]))

    def _fault(self, error: Any, detail: str) -> str:
        """What an error message of the pipeline means. Texts of elements are shown without addresses."""
        gst = self._gst

        def is_(kind: Any, code: Any) -> bool:
            return bool(error.matches(kind.quark(), code))

        if is_(gst.ResourceError, gst.ResourceError.BUSY):
            return "the device is in use by another program"
        if is_(gst.CoreError, gst.CoreError.MISSING_PLUGIN):
            return (
                "GStreamer has no decoder for this stream; install gstreamer1.0-libav, or gstreamer1.0-plugins-good, "
                "-bad and -ugly"
            )
        if is_(gst.ResourceError, gst.ResourceError.NOT_AUTHORIZED) or "Unauthorized" in f"{error.message} {detail}":
            return "the server refuses the user name or password"
        if "not-negotiated" in (detail or ""):
            return (
                "its elements cannot agree on a format; put `videoconvert` (on a Jetson `nvvidconv`) before `appsink`"
            )
        return without_secrets(error.message).rstrip(".")


def _missing(elements: list[str]) -> str:
    """A sentence that names elements that are not installed, and the packages they are in."""
    packages = sorted({package for element in elements if (package := package_of(element)) is not None})
    how = f"install {' '.join(packages)}" if packages else "`apt search gstreamer1.0` lists packages of plugins"
    if len(elements) == 1:
        return f"there is no element {elements[0]} here; {how}, or correct its name"
    return f"there are no elements {', '.join(elements)} here; {how}, or correct their names"


def package_of(element: str) -> str | None:
    """The Debian package of an element, or None where it is not known."""
    if element.startswith("avdec_"):
        return "gstreamer1.0-libav"
    return next((package for package, names in ELEMENTS.items() if element in names.split()), None)


def without_secrets(text: str) -> str:
    """A text without user names and passwords of addresses, and without values of properties that hold secrets."""
    text = re.sub(r"(://)[^/@\s]*@", r"\1", text)
    return re.sub(r"((?:user|proxy)-(?:id|pw))=\S+", r"\1=...", text)


def _plane(data: np.ndarray, info: Any, plane: int, rows: int, width: int) -> np.ndarray:
    """A plane's bytes (rows, width) without the padding of its rows."""
    stride, offset = info.stride[plane], info.offset[plane]
    part = data[offset : offset + rows * stride]
    if len(part) < rows * stride:
        # The last row may lack its padding.
        part = np.concatenate((part, np.zeros(rows * stride - len(part), dtype=np.uint8)))
    return np.ascontiguousarray(part.reshape(rows, stride)[:, :width])


def _without_padding(data: np.ndarray, info: Any, name: str) -> np.ndarray:
    """A frame's bytes, uint8 (size,), without the padding of rows and planes."""
    height, width = info.height, info.width
    if name == "nv12":
        planes = [(height, width), (height // 2, width)]
    elif name == "yuv420p":
        planes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    else:
        planes = [(height, width * {"gray": 1, "yuyv422": 2, "rgb24": 3, "bgr24": 3}.get(name, 4))]
    parts = [_plane(data, info, plane, *shape).reshape(-1) for plane, shape in enumerate(planes)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


SETTINGS = {"width": "width=(int){}", "height": "height=(int){}", "fps": "framerate=(fraction){}/1"}
"""Settings of the shorthands, and GStreamer's words for them."""


def csi_pipeline(address: str) -> str:
    """The pipeline of `csi://N`, camera N on the CSI bus of a Jetson, with `?width=1280&height=720&fps=30`.

    Raises:
        InputError: the address cannot be used.
    """
    example = "csi://0?width=1280&height=720&fps=30"
    number, settings = _parts(address, example, ())
    if not number.isdecimal():
        raise InputError(f"{address} names no camera; write it as {example}")
    caps = _caps("video/x-raw(memory:NVMM)", settings)
    return (
        f"nvarguscamerasrc sensor-id={int(number)} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! "
        "appsink max-buffers=2 drop=true sync=false"
    )


def v4l2_pipeline(address: str) -> str:
    """The pipeline of `v4l2://N` or `v4l2:///dev/videoN`, with `?width=1280&height=720&fps=30&format=mjpeg`.

    Raises:
        InputError: the address cannot be used.
    """
    example = "v4l2://0?width=1280&height=720&fps=30&format=mjpeg"
    place, settings = _parts(address, example, ("format",))
    device = f"/dev/video{int(place)}" if place.isdecimal() else place
    if not re.fullmatch(r"/[\w./-]+", device):
        raise InputError(f"{address} names no camera; write it as {example}")
    coding = settings.pop("format", "raw")
    if coding not in ("raw", "mjpeg"):
        raise InputError(f"{address}: format is {coding}; give raw or mjpeg")
    caps = _caps("image/jpeg" if coding == "mjpeg" else "video/x-raw", settings)
    decoder = "jpegdec ! " if coding == "mjpeg" else ""
    return f"v4l2src device={device} ! {caps} ! {decoder}videoconvert ! appsink max-buffers=2 drop=true sync=false"


def _parts(address: str, example: str, others: Collection[str]) -> tuple[str, dict[str, str]]:
    """The camera that a shorthand names, and its settings.

    Raises:
        InputError: a setting is unknown or no number.
    """
    parts = urlsplit(address)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(settings) - {*SETTINGS, *others})
    wrong = [name for name, value in settings.items() if name in SETTINGS and not re.fullmatch(r"[1-9]\d{0,4}", value)]
    if unknown or wrong:
        raise InputError(f"{address} has no usable {(unknown or wrong)[0]}; write it as {example}")
    return unquote(parts.netloc + parts.path), settings


def _caps(kind: str, settings: Mapping[str, str]) -> str:
    return ",".join([kind, *(SETTINGS[name].format(value) for name, value in settings.items() if name in SETTINGS)])
