"""Streams as sources: HTTP, RTSP, GStreamer pipelines, and raw frames on standard input."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.media.sources import Cause, FrameSource, RawFrames, SourceOptions, open_source
from etam_edge.media.sources import gstreamer as gstreamer_module
from etam_edge.media.sources.gstreamer import csi_pipeline, package_of, v4l2_pipeline
from etam_edge.media.sources.live import StreamClock
from etam_edge_testing.gstreamer import need_gstreamer

pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
PASSWORD = "s3cret-w0rd"


def picture(index: int) -> np.ndarray:
    """A plain grey frame whose level tells its index, and survives JPEG and H.264."""
    return np.full((HEIGHT, WIDTH, 3), 20 + 10 * index, dtype=np.uint8)


def levels(source: FrameSource, count: int | None = None) -> list[int]:
    """The indices that frames of `picture` show."""
    found = []
    for frame in source:
        found.append(round((float(frame.pixels.mean()) - 20) / 10))
        if len(found) == count:
            break
    return found


def jpeg(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(index)).save(file, format="JPEG", quality=95)
    return file.getvalue()


# --- HTTP ---


class MjpegServer(ThreadingHTTPServer):
    """Sends an MJPEG stream of `frames` frames, and then ends it, or stalls.

    Attributes:
        stalls: whether the connection stays open, silent, behind the last frame.
        cut: whether the last frame ends in its middle.
        garbage: whether frames are no images.
        status: of every answer.
    """

    daemon_threads = True
    frames = 6
    pause = 0.02
    stalls = False
    cut = False
    garbage = False
    status = 200
    authorization: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _MjpegHandler)
        self.over = threading.Event()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_address[1]}/camera"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class _MjpegHandler(BaseHTTPRequestHandler):
    server: MjpegServer

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        server = self.server
        if server.authorization and self.headers.get("Authorization") != server.authorization:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(server.status)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(server.frames):
            body = b"no JPEG at all" if server.garbage else jpeg(index % 20)
            if server.cut and index == server.frames - 1:
                body = body[: len(body) // 2]
            length = len(jpeg(index % 20)) if server.cut else len(body)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
            self.wfile.write(head.encode() + body + (b"\r\n" if len(body) == length else b""))
            self.wfile.flush()
            time.sleep(server.pause)
        if not server.cut:
            self.wfile.write(b"--frame--\r\n")
        if server.stalls:
            server.over.wait(30)


@pytest.fixture
def mjpeg() -> Iterator[MjpegServer]:
    server = MjpegServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_mjpeg_stream_gives_all_frames_with_times(mjpeg: MjpegServer) -> None:
    source = open_source(mjpeg.url())
    assert (source.is_live, source.length, source.count(), source.path) == (True, None, None, None)
    assert source.frame_shape == (HEIGHT, WIDTH)
    frames = list(source)
    assert [round((float(frame.pixels.mean()) - 20) / 10) for frame in frames] == list(range(6))
    assert [frame.name for frame in frames] == [f"{index:05d}" for index in range(6)]
    times = [frame.timestamp for frame in frames]
    assert times[0] == 0.0
    assert times == sorted(times)
    assert all(frame.captured is not None and frame.captured <= time.monotonic() for frame in frames)
    assert source.ending is not None
    # FFmpeg takes the end of the connection for an error.
    assert source.ending.cause in (Cause.END, Cause.BROKEN)
    assert source.ending.frames == 6
    # A live source is read once.
    assert list(source) == []


def test_stream_that_is_cut_in_the_middle_of_a_frame_ends(mjpeg: MjpegServer) -> None:
    mjpeg.cut = True
    source = open_source(mjpeg.url())
    given = levels(source)
    assert given[:5] == list(range(5))
    assert source.ending is not None
    assert source.ending.cause in (Cause.END, Cause.BROKEN)
    assert not source.ending.is_whole


def test_stream_that_stalls_ends_at_its_time_limit(mjpeg: MjpegServer) -> None:
    mjpeg.stalls = True
    source = open_source(mjpeg.url(), SourceOptions(read_seconds=0.4))
    assert len(levels(source)) >= 5
    assert source.ending is not None
    assert source.ending.cause == Cause.STALLED
    assert "no frame came within the time limit" in source.ending.shortfall()


def test_stream_that_sends_no_images_is_given_up(mjpeg: MjpegServer) -> None:
    mjpeg.garbage, mjpeg.frames = True, 10_000
    with pytest.raises(InputError, match=r"does not open: no answer within|gives no frame: no frame came within"):
        open_source(mjpeg.url(), SourceOptions(open_seconds=1, read_seconds=0.3))


def test_stream_is_read_in_one_thread_and_closed_in_another(mjpeg: MjpegServer) -> None:
    mjpeg.frames, mjpeg.pause = 10_000, 0.01
    source = open_source(mjpeg.url())
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(frame.index for frame in source))
    reader.start()
    time.sleep(0.2)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert seen == list(range(len(seen)))
    assert source.ending is not None
    assert source.ending.cause == Cause.CLOSED
    assert source.ending.is_whole
    assert list(source) == []


def test_password_is_used_and_never_shown(mjpeg: MjpegServer) -> None:
    mjpeg.authorization = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    assert levels(open_source(mjpeg.url(f"user:{PASSWORD}@")), 2) == [0, 1]
    with pytest.raises(InputError, match="refuses the user name or password") as failure:
        open_source(mjpeg.url(f"user:not-{PASSWORD}@"))
    assert PASSWORD not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "sentence"), [(404, "has nothing under this path"), (403, "refuses the user name"), (500, "an error")]
)
def test_answer_of_the_server_is_told(mjpeg: MjpegServer, status: int, sentence: str) -> None:
    mjpeg.status = status
    with pytest.raises(InputError, match=sentence):
        open_source(mjpeg.url())


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_address_that_cannot_be_opened_is_refused_in_time(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    address = f"{scheme}://user:{PASSWORD}@127.0.0.1"
    with pytest.raises(InputError, match="the host refuses the connection") as failure:
        open_source(f"{address}:{free}/x")
    assert PASSWORD not in str(failure.value)
    with silent_server() as port, pytest.raises(InputError, match=r"no answer within 0.3 s"):
        open_source(f"{address}:{port}/x", SourceOptions(open_seconds=0.3))


def test_what_is_no_video_is_refused(mjpeg: MjpegServer) -> None:
    mjpeg.frames = 0
    with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+/camera (does not open|gives no frame)"):
        open_source(mjpeg.url(), SourceOptions(open_seconds=2))


@pytest.mark.parametrize("address", [f"ftp://user:{PASSWORD}@host/x", f"foo+bar://{PASSWORD}@host/x?token={PASSWORD}"])
def test_unknown_scheme_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"scheme that is not known; name .* rtsp://.* csi://.*appsink") as failure:
        open_source(address)
    assert PASSWORD not in str(failure.value)


# --- RTSP ---


@contextmanager
def rtsp_server(login: str | None = None) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """GStreamer's RTSP server in Debian's Python, and the port it listens on; skips the test where it is missing."""
    python = "/usr/bin/python3"
    script = str(Path(__file__).with_name("rtsp_server.py"))
    if not Path(python).exists():
        pytest.skip("there is no Debian Python here")
    command = [python, script, *([login] if login else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            line = server.stdout.readline()
            if not line:
                reason = (server.stderr.read().strip().splitlines() or ["it ends at once"])[-1]
                pytest.skip(f"no RTSP server: {reason} (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly)")
            yield int(line), server
        finally:
            server.kill()


def test_rtsp_stream_gives_frames_with_times_until_it_breaks() -> None:
    with rtsp_server() as (port, server):
        source = open_source(f"rtsp://127.0.0.1:{port}/camera", SourceOptions(read_seconds=5))
        assert (source.is_live, source.frame_shape, source.stem) == (True, (48, 64), "127_0_0_1")
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 5:
                server.kill()
    times = [frame.timestamp for frame in frames]
    assert times[0] == 0.0
    assert times == sorted(times)
    # 25 frames a second by the clock of the server, which states times from the second frame on at the latest.
    assert np.diff(times[2:]) == pytest.approx([0.04] * (len(frames) - 3), abs=0.025)
    for frame in frames:
        np.testing.assert_allclose(frame.pixels.astype(int), np.broadcast_to((255, 0, 0), (48, 64, 3)), atol=12)
        assert frame.captured is not None
        assert frame.captured <= time.monotonic()
    assert source.ending is not None
    assert source.ending.cause in (Cause.END, Cause.BROKEN)
    assert source.ending.frames == len(frames) >= 5


def test_stream_that_begins_without_times_has_one_clock() -> None:
    clock = StreamClock()
    given = [clock.timestamp(stated, now) for stated, now in [(None, 100.0), (None, 100.1), (7.0, 100.2), (7.5, 101.0)]]
    assert given == pytest.approx([0, 0.1, 0.2, 0.7])
    # A clock that is set back does not turn time back.
    assert [clock.timestamp(2.0, 101.1), clock.timestamp(None, 100.5), clock.timestamp(8.0, 102.0)] == pytest.approx(
        [0.7, 0.7, 1.2]
    )


def test_rtsp_server_that_refuses_is_told_from_one_without_the_path() -> None:
    with rtsp_server(f"user:{PASSWORD}") as (port, _):
        for login in ("", "user:wrong-pw@"):
            with pytest.raises(InputError, match="refuses the user name or password") as failure:
                open_source(f"rtsp://{login}127.0.0.1:{port}/camera")
            assert "wrong-pw" not in str(failure.value)
        with pytest.raises(InputError, match="has nothing under this path"):
            open_source(f"rtsp://user:{PASSWORD}@127.0.0.1:{port}/nothing")
        source = open_source(f"rtsp://user:{PASSWORD}@127.0.0.1:{port}/camera")
        assert len([frame for frame, _ in zip(source, range(3), strict=False)]) == 3


# --- cameras ---


def test_camera_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("97", "/dev/video97"):
        with pytest.raises(InputError, match=r"camera .*97 does not open: there is no /dev/video97"):
            open_source(name)
    with pytest.raises(InputError, match="is not a camera that gives pictures"):
        open_source("/dev/null")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        open_source(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(16, "busy"), "in use by another program"),
        (OSError(13, "no"), "group that owns it"),
        (OSError(6, "gone"), "no camera is connected"),
    ],
)
def test_camera_that_does_not_open_says_why(error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr("etam_edge.media.sources.live.os.open", refuse)
    with pytest.raises(InputError, match=sentence):
        open_source("0")


# --- raw frames ---


RAW: dict[str, Callable[[np.ndarray], bytes]] = {
    "rgb24": lambda image: image.tobytes(),
    "bgr24": lambda image: image[..., ::-1].tobytes(),
    "gray": lambda image: image[..., 0].tobytes(),
    # Grey: chroma is 128, luma of the limited range 16 to 235.
    "yuyv422": lambda image: np.stack((_luma(image), np.full(image.shape[:2], 128, np.uint8)), -1).tobytes(),
    "nv12": lambda image: _luma(image).tobytes() + bytes([128]) * (image.shape[0] * image.shape[1] // 2),
}


def _luma(image: np.ndarray) -> np.ndarray:
    return np.rint(16 + image[..., 0].astype(float) * 219 / 255).astype(np.uint8)


@contextmanager
def pipe_of(data: bytes) -> Iterator[int]:
    """A descriptor from which `data` is read."""
    read, write = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(write, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        yield read
    finally:
        os.close(read)
        writer.join()


@pytest.mark.parametrize("name", RAW)
def test_raw_frames_are_read_in_every_format(name: str) -> None:
    data = b"".join(RAW[name](picture(index)) for index in range(4))
    with pipe_of(data) as descriptor:
        source = RawFrames(SourceOptions(size=(HEIGHT, WIDTH), pixel_format=name), descriptor)
        frames = list(source)
    assert source.frame_shape == (HEIGHT, WIDTH)
    for index, frame in enumerate(frames):
        # Levels of luma are coarser than those of RGB.
        np.testing.assert_allclose(frame.pixels.astype(int), picture(index), atol=2)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert source.ending is not None
    assert source.ending.is_whole


def test_colours_of_raw_frames_are_in_their_order() -> None:
    pixel = np.zeros((16, 16, 3), np.uint8)
    pixel[:] = (200, 100, 50)
    for name in ("rgb24", "bgr24"):
        with pipe_of(RAW[name](pixel)) as descriptor:
            [frame] = RawFrames(SourceOptions(size=(16, 16), pixel_format=name), descriptor)
        np.testing.assert_array_equal(frame.pixels, pixel)


def test_raw_frames_that_end_in_the_middle_of_one_say_so() -> None:
    options = SourceOptions(size=(HEIGHT, WIDTH), pixel_format="gray")
    with pipe_of(RAW["gray"](picture(0)) + b"123") as descriptor:
        source = RawFrames(options, descriptor)
        assert levels(source) == [0]
    assert source.ending is not None
    assert "the last frame has 3 of 3072 bytes" in source.ending.shortfall()
    with pipe_of(b"123") as descriptor, pytest.raises(InputError, match="gives no frame: the last frame has 3 of"):
        RawFrames(options, descriptor)


def test_raw_frames_need_a_size_and_a_format() -> None:
    with pytest.raises(InputError, match=r"give `size=WxH` and `pixel_format=FORMAT`"):
        open_source("-")
    with pytest.raises(InputError, match="cannot be nv12; give even sides"):
        open_source("-", SourceOptions(size=(33, 32), pixel_format="nv12"))
    with pytest.raises(InputError, match="`pixel_format=rgb` is unknown"):
        SourceOptions(size=(32, 32), pixel_format="rgb")


def test_waiting_for_raw_frames_ends_when_the_source_is_closed() -> None:
    read, write = os.pipe()
    os.write(write, RAW["gray"](picture(3)))
    source = RawFrames(SourceOptions(size=(HEIGHT, WIDTH), pixel_format="gray"), read)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(levels(source)))
    reader.start()
    time.sleep(0.05)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    os.close(read)
    os.close(write)
    assert seen == [3]
    assert source.ending is not None
    assert source.ending.cause == Cause.CLOSED


# --- GStreamer ---


def test_pipeline_gives_its_frames_with_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "videotestsrc", "videorate")
    caps = "video/x-raw,width=38,height=22,framerate=10/1"
    source = open_source(f"videotestsrc num-buffers=5 pattern=red ! {caps} ! appsink")
    assert (source.is_live, source.frame_shape, source.stem) == (True, (22, 38), "pipeline")
    assert source.frames_per_second == 10
    frames = list(source)
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, np.broadcast_to((255, 0, 0), (22, 38, 3)))
    assert source.ending is not None
    assert (source.ending.cause, source.ending.is_whole) == (Cause.END, True)


@pytest.mark.parametrize("name", gstreamer_module.FORMATS)
def test_formats_of_pipelines_are_converted(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "videotestsrc")
    # A width whose rows are padded.
    [frame] = open_source(
        f"videotestsrc num-buffers=1 pattern=red ! video/x-raw,format={name},width=38,height=22 ! appsink"
    )
    red = (81, 81, 81) if name == "GRAY8" else (255, 0, 0)
    np.testing.assert_allclose(frame.pixels.astype(int), np.broadcast_to(red, (22, 38, 3)), atol=5)


def test_grey_pipeline_of_16_bits_needs_a_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "videotestsrc", "videoconvert")
    caps = "video/x-raw,format=GRAY16_LE,width=37,height=20"
    text = f"videotestsrc num-buffers=1 pattern=white ! videoconvert ! {caps} ! appsink"
    with pytest.raises(InputError, match="give it with `depth_range=LOW,HIGH`"):
        open_source(text)
    source = open_source(text, SourceOptions(depth_range=(0, 131070)))
    [frame] = source
    assert source.depth_range == (0, 131070)
    # White is 235 of 255 in this source's luma.
    np.testing.assert_allclose(frame.pixels.astype(int), 235 / 2, atol=1)


WRONG_PIPELINES = {
    "no appsink": ("videotestsrc ! fakesink", "must end in one `appsink`"),
    "no sink": ("videotestsrc ! identity", "must end in one `appsink`"),
    "two sinks": ("videotestsrc ! tee name=t ! appsink t. ! fakesink", "must end in one `appsink`"),
    "missing plugin": ("nvarguscamerasrc ! nvvidconv ! appsink", "install nvidia-l4t-gstreamer"),
    "unknown element": ("nosuchthing ! appsink", "there is no element nosuchthing here"),
    "mistake": ("videotestsrc nosuch=1 ! appsink", "has a mistake"),
    "no format": ("videotestsrc ! video/x-raw,format=ARGB64 ! appsink", "put `videoconvert`"),
    "no frame": ("videotestsrc num-buffers=0 ! appsink", "gives no frame"),
    "no file": ("filesrc location=/nowhere/at/all ! decodebin ! videoconvert ! appsink", "gives no frame"),
    "no device": ("v4l2src device=/dev/video97 ! videoconvert ! appsink", "gives no frame: Cannot identify device"),
}


@pytest.mark.parametrize("case", WRONG_PIPELINES)
def test_wrong_pipeline_is_refused(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "videotestsrc", "v4l2src")
    description, sentence = WRONG_PIPELINES[case]
    with pytest.raises(InputError) as failure:
        open_source(description, SourceOptions(open_seconds=5))
    assert sentence in str(failure.value)
    assert "\n" not in str(failure.value)


def test_pipeline_that_stalls_or_is_closed_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "videotestsrc")
    slow = "videotestsrc is-live=true ! video/x-raw,width=32,height=32,framerate=2/1 ! appsink"
    source = open_source(slow, SourceOptions(read_seconds=0.15))
    assert len(list(source)) == 1
    assert source.ending is not None
    assert source.ending.cause == Cause.STALLED
    source = open_source(slow)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(frame.index for frame in source))
    reader.start()
    time.sleep(0.1)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert seen == [0]
    assert source.ending.cause == Cause.CLOSED


def test_secrets_of_a_pipeline_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_gstreamer(monkeypatch, tmp_path, "rtspsrc")
    for text in (
        f"rtspsrc location=rtsp://u:{PASSWORD}@127.0.0.1:1/x ! decodebin ! videoconvert ! appsink",
        f"rtspsrc location=rtsp://127.0.0.1:1/x user-id=u user-pw={PASSWORD} nosuch=1 ! appsink",
    ):
        with pytest.raises(InputError) as failure:
            open_source(text, SourceOptions(open_seconds=5))
        assert PASSWORD not in str(failure.value)


def test_without_pygobject_a_pipeline_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(RuntimeUnavailableError, match=r"sudo apt install python3-gi gir1\.2-gstreamer-1\.0"):
        open_source("videotestsrc ! appsink")


def test_shorthands_are_pipelines() -> None:
    assert csi_pipeline("csi://1?width=1280&height=720&fps=30") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=(int)1280,height=(int)720,"
        "framerate=(fraction)30/1 ! nvvidconv ! video/x-raw,format=BGRx ! appsink max-buffers=2 drop=true sync=false"
    )
    assert v4l2_pipeline("v4l2:///dev/video2?format=mjpeg").startswith(
        "v4l2src device=/dev/video2 ! image/jpeg ! jpegdec ! videoconvert ! appsink"
    )
    assert "device=/dev/video3 ! video/x-raw,width=(int)640 !" in v4l2_pipeline("v4l2://3?width=640")
    for address in ("csi://x", "csi://0?size=3", "csi://0?width=a", "csi://0?format=raw", "v4l2://0?format=h264"):
        with pytest.raises(InputError, match=r"csi://0\?|raw or mjpeg"):
            open_source(address)
    for address in ("v4l2://", "v4l2:///dev/x ! filesink location=/y", "v4l2://0?fps=0"):
        with pytest.raises(InputError, match=r"v4l2://0\?width=1280"):
            open_source(address)


def test_packages_of_elements_are_known() -> None:
    assert package_of("rtspsrc") == "gstreamer1.0-plugins-good"
    assert package_of("avdec_h264") == "gstreamer1.0-libav"
    assert package_of("nvvidconv") == "nvidia-l4t-gstreamer"
    assert package_of("nosuchthing") is None


def test_elements_are_in_the_packages_that_are_named() -> None:
    if subprocess.run(["which", "apt-cache"], capture_output=True, check=False).returncode:
        pytest.skip("there is no apt-cache here")
    shown = subprocess.run(
        ["apt-cache", "show", *gstreamer_module.ELEMENTS], capture_output=True, text=True, check=False
    )
    held: dict[str, set[str]] = {}
    for line in shown.stdout.splitlines():
        name, _, value = line.partition(":")
        if name == "Package":
            package = value.strip()
        elif name == "Gstreamer-Elements":
            held[package] = {element.strip() for element in value.split(",")}
    if not held:
        pytest.skip("apt-cache knows no packages of GStreamer here")
    for package, elements in held.items():
        assert set(gstreamer_module.ELEMENTS[package].split()) <= elements, package
