"""The page's server: what viewers receive over the WebSocket, and that none of them holds up the tracker."""

from __future__ import annotations

import json
import socket
import struct
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.live.guard import Address
from etam_edge.live.loop import Snapshot
from etam_edge.live.picture import encode_picture
from etam_edge.live.statistics import LiveStatistics
from etam_edge.media.sources import NamedFrame
from etam_edge.runtimes.types import FrameResult

pytest.importorskip("uvicorn", reason='the page needs pip install "etam-edge[live]"')
pytest.importorskip("starlette", reason='the page needs pip install "etam-edge[live]"')
client = pytest.importorskip("websockets.sync.client", reason='the page needs pip install "etam-edge[live]"')

from etam_edge.live.loop import Status  # noqa: E402
from etam_edge.live.server import PageServer  # noqa: E402

GREETING = {"source": "clip", "model": "small", "mode": "live", "maxObjects": 3, "saves": False}


def snapshot(number: int, height: int = 48, width: int = 64) -> Snapshot:
    """Two overlapping objects; the second one has the higher score."""
    pixels = np.full((height, width, 3), number % 250, dtype=np.uint8)
    masks = np.zeros((2, height, width), dtype=bool)
    masks[0, :20, :20] = masks[1, 10:30, 10:30] = True
    scores = np.array([2.0, 5.0], dtype=np.float32)
    result = FrameResult(
        number, (1, 7), masks, np.zeros((2, 8, 8), np.float32), scores, scores / 10, np.zeros(2, np.int32)
    )
    return Snapshot(number, NamedFrame(f"{number:05d}", pixels, number, number / 30), result, {7: "cup"})


def status(fault: str = "") -> Status:
    return Status((), LiveStatistics().whole(0), fault, True, False, 0)


class FakeLoop:
    """Keeps what viewers ask for."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Any, Snapshot | None]] = []
        self.answer: Callable[[Snapshot | None], tuple[Snapshot | None, str]] = lambda clicked: (None, "")

    def submit(self, command: Any, clicked: Snapshot | None, answer: Any) -> None:
        self.submitted.append((command, clicked))
        answer(*self.answer(clicked))

    def prompts_json(self) -> str:
        return "[]\n"


@contextmanager
def serving(token: str | None = None) -> Iterator[tuple[PageServer, FakeLoop, str]]:
    server, loop = PageServer(Address(port=0), token, GREETING), FakeLoop()
    server.attach(loop)  # type: ignore[arg-type]
    with server:
        yield server, loop, server.url.partition("//")[2].partition("/")[0]


class Viewer:
    """A browser without a screen."""

    def __init__(self, host: str) -> None:
        self._connecting = client.connect(f"ws://{host}/socket", origin=f"http://{host}", max_size=None)

    def __enter__(self) -> Viewer:
        self._socket = self._connecting.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._connecting.__exit__(*details)

    def send(self, **message: object) -> None:
        self._socket.send(json.dumps(message))

    def text(self, kind: str, timeout: float = 10) -> dict[str, Any]:
        """The next text of a type; pictures before it are dropped."""
        while True:
            data = self._socket.recv(timeout)
            if isinstance(data, str) and json.loads(data)["type"] == kind:
                return dict(json.loads(data))

    def picture(self, acknowledge: bool = True, timeout: float = 10) -> dict[str, Any]:
        """The header of the next picture."""
        while True:
            data = self._socket.recv(timeout)
            if isinstance(data, bytes):
                header = decode(data)[0]
                if acknowledge:
                    self.send(type="ack", snapshot=header["snapshot"])
                return header

    def nothing(self, seconds: float = 0.2) -> bool:
        try:
            self._socket.recv(seconds)
        except TimeoutError:
            return True
        return False


def decode(message: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    (length,) = struct.unpack("<I", message[:4])
    header = json.loads(message[4 : 4 + length])
    image = message[4 + length : 4 + length + header["image"]]
    labels = zlib.decompress(message[4 + length + header["image"] :])
    width, height = header["view"]
    with Image.open(BytesIO(image)) as opened:
        pixels = np.asarray(opened)
    return header, pixels, np.frombuffer(labels, dtype=np.uint8).reshape(height, width)


def test_a_picture_holds_the_frame_and_its_masks() -> None:
    header, pixels, labels = decode(encode_picture(snapshot(100)))
    assert pixels.shape == (48, 64, 3)
    assert abs(pixels.astype(int) - 100).max() <= 2
    expected = np.zeros((48, 64), dtype=np.uint8)
    expected[:20, :20] = 1
    # The object with the higher score takes the pixels that both have.
    expected[10:30, 10:30] = 2
    np.testing.assert_array_equal(labels, expected)
    assert (header["width"], header["height"], header["index"], header["timestamp"]) == (64, 48, 100, 100 / 30)
    assert [(one["id"], one["label"], one["score"], one["visible"]) for one in header["objects"]] == [
        (1, "", 2.0, True),
        (7, "cup", 5.0, True),
    ]


def test_a_large_picture_is_reduced_with_its_masks() -> None:
    header, pixels, labels = decode(encode_picture(snapshot(3, 480, 640), max_side=64))
    assert header["view"] == [64, 48]
    assert pixels.shape == (48, 64, 3)
    assert (header["width"], header["height"]) == (640, 480)
    assert {tuple(np.argwhere(labels == 1).min(axis=0)), tuple(np.argwhere(labels == 2).max(axis=0))} == {
        (0, 0),
        (2, 2),
    }


def test_a_viewer_is_greeted_and_sees_the_newest_picture_each_time_it_is_ready() -> None:
    with serving() as (server, _, host), Viewer(host) as viewer:
        assert viewer.text("hello") == {"type": "hello", **GREETING}
        for number in range(1, 50):
            server.show(snapshot(number))
        first = viewer.picture(acknowledge=False)
        for number in range(50, 100):
            server.show(snapshot(number))
        # It has not shown the first one yet: nothing more is sent, and nothing is kept for it.
        assert viewer.nothing()
        viewer.send(type="ack", snapshot=first["snapshot"])
        assert viewer.picture()["snapshot"] == 99
        assert viewer.nothing()


def test_a_viewer_that_reads_nothing_does_not_hold_up_the_others_or_the_tracker() -> None:
    with serving() as (server, _, host), Viewer(host) as slow, Viewer(host) as viewer:
        slow.text("hello")
        longest = 0.0
        for number in range(1, 30):
            begin = time.perf_counter()
            server.show(snapshot(number, 480, 640))
            longest = max(longest, time.perf_counter() - begin)
            assert viewer.picture()["snapshot"] <= number
        # Showing hands over a reference: it takes microseconds, where encoding a picture takes milliseconds.
        assert longest < 0.5
        pinned = [one._pinned for one in server._viewers._viewers]
        assert max(map(len, pinned)) <= 3


def test_a_click_carries_the_picture_it_was_made_on_and_is_answered() -> None:
    with serving() as (server, loop, host), Viewer(host) as viewer:
        server.show(snapshot(5))
        viewer.picture()
        loop.answer = lambda clicked: (snapshot(6), "")
        viewer.send(type="prompt", snapshot=5, object=None, points=[[3, 4]], labels=[1])
        assert viewer.text("answer") == {"type": "answer", "error": "", "snapshot": 6}
        assert viewer.picture()["snapshot"] == 6
        ((command, clicked),) = loop.submitted
        assert command.prompt.points == [[3, 4]]
        assert clicked is not None
        assert clicked.number == 5
        viewer.send(type="prompt", snapshot=1234, object=None, points=[[3, 4]], labels=[1])
        viewer.text("answer")
        assert loop.submitted[-1][1] is None
        loop.answer = lambda clicked: (None, "object 9 is not tracked any more")
        viewer.send(type="remove", object=9)
        assert viewer.text("answer")["error"] == "object 9 is not tracked any more"
        viewer.send(type="remove", object="nine")
        assert viewer.text("answer")["error"].endswith("reload the page")


def test_a_frozen_viewer_keeps_its_picture_and_can_still_click_on_it() -> None:
    with serving() as (server, loop, host), Viewer(host) as viewer, Viewer(host) as other:
        server.show(snapshot(5))
        viewer.picture()
        other.picture()
        viewer.send(type="freeze", on=True)
        viewer.send(type="remove", object=3)
        viewer.text("answer")
        for number in range(6, 20):
            server.show(snapshot(number))
        assert other.picture()["snapshot"] >= 6
        loop.answer = lambda clicked: (snapshot(30), "")
        viewer.send(type="prompt", snapshot=5, object=None, points=[[3, 4]], labels=[1])
        assert viewer.picture()["snapshot"] == 30
        assert loop.submitted[-1][1].number == 5  # type: ignore[union-attr]
        viewer.send(type="freeze", on=False)
        assert viewer.picture()["snapshot"] == 19


def test_the_state_is_reported_as_json() -> None:
    with serving() as (server, _, host), Viewer(host) as viewer:
        server.report(status("the camera was lost"))
        told = viewer.text("status")
        assert told["fault"] == "the camera was lost"
        # NaN, which JSON does not know, is null.
        assert told["age"] == {"p50": None, "p95": None, "p99": None}


def test_the_page_is_complete_and_refers_to_nothing_elsewhere() -> None:
    with serving() as (_, _, host):
        for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
            with urllib.request.urlopen(f"http://{host}{path}", timeout=10) as answer:
                text = answer.read().decode()
                assert answer.headers["content-type"].startswith(kind)
                assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "http://" not in text
            assert "https://" not in text.replace('location.protocol === "https:"', "")
        with urllib.request.urlopen(f"http://{host}/prompts.json", timeout=10) as answer:
            assert answer.read() == b"[]\n"
            assert "attachment" in answer.headers["content-disposition"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{host}/../../etc/passwd", timeout=10)


def test_websockets_of_other_pages_and_without_the_token_are_refused() -> None:
    from websockets.exceptions import InvalidStatus

    with (
        serving() as (_, _, host),
        pytest.raises(InvalidStatus, match="403"),
        client.connect(f"ws://{host}/socket", origin="https://evil.example"),
    ):
        pass
    token = "a-token-of-24-characters"
    with serving(token) as (server, _, host):
        assert server.url.endswith(f"/?token={token}")
        with pytest.raises(InvalidStatus, match="403"), client.connect(f"ws://{host}/socket", origin=f"http://{host}"):
            pass
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://{host}/", timeout=10)
        headers = {"Authorization": f"Bearer {token}"}
        with client.connect(f"ws://{host}/socket", origin=f"http://{host}", additional_headers=headers) as page:
            assert json.loads(page.recv(10))["type"] == "hello"


def test_a_port_that_is_taken_and_addresses_of_others_are_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"`serve=127.0.0.1:{port}`: the port is taken by another program"):
            PageServer(Address(port=port), None, GREETING)
    with pytest.raises(InputError, match="give an address of this machine"):
        PageServer(Address("192.0.2.1", 0), None, GREETING)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etam_edge.live.server.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(RuntimeUnavailableError, match=r'the page needs uvicorn.*pip install "etam-edge\[live\]"'):
        PageServer(Address(port=0), None, GREETING)


def test_the_page_is_part_of_the_package() -> None:
    import etam_edge.live

    page = Path(etam_edge.live.__file__).parent / "page"
    assert {file.name for file in page.iterdir()} == {"index.html", "page.css", "page.js"}
