"""A live run of 20,000 frames whose source breaks 50 times: memory, threads and descriptors stay as they are."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etam_edge import Prompt, Tracker
from etam_edge.live.commands import AddPrompt, Remove, SetLabel
from etam_edge.live.guard import Address
from etam_edge.live.loop import LiveLoop, LoopOptions
from etam_edge.live.reader import Delivery, FrameReader
from etam_edge.live.sinks import LiveSinks
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sinks import OutputRequest
from etam_edge.media.sources import Cause, FrameSource, NamedFrame
from etam_edge.runtimes import FrameResult
from etam_edge.spec import Pooling
from etam_edge_testing.live_sources import MadeUpCamera
from etam_edge_testing.small import clip_frame

client = pytest.importorskip("websockets.sync.client", reason='the page needs pip install "etam-edge[live]"')
pytest.importorskip("uvicorn", reason='the page needs pip install "etam-edge[live]"')

BREAKS = 50
FRAMES_EACH = 400
SAMPLE_EVERY = 1000
WARM_UP = 3000
GROWTH = 8 * 2**20
"""Bytes that the process may grow after the warm-up: fragmentation, no trend."""

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc"),
]


def resources() -> tuple[int, int, int]:
    """Bytes in memory, threads, and open descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), threading.active_count(), len(os.listdir("/proc/self/fd"))


class Watched(LiveSinks):
    """Outputs that sample the process's resources, and act as viewers do from time to time."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loop: LiveLoop | None = None
        self.samples: list[tuple[int, int, int]] = []
        self.errors: list[str] = []
        self.survived = 0
        self._written_frames = 0

    def write(self, frame: NamedFrame, result: FrameResult) -> None:
        super().write(frame, result)
        self._written_frames += 1
        if self._written_frames % SAMPLE_EVERY == 0:
            self.samples.append(resources())
        assert self.loop is not None
        shown, place = self.loop._snapshot, self._written_frames % FRAMES_EACH
        # An object lives across every break of the source; between breaks there is none, which takes no time.
        if place == FRAMES_EACH - 30:
            self.loop.submit(AddPrompt(0, None, Prompt(points=[(64, 64)], labels=[1])), shown, self._note)
        elif place == FRAMES_EACH - 15 and result.object_ids:
            click = Prompt(points=[(40, 40)], labels=[0])
            self.loop.submit(AddPrompt(0, result.object_ids[0], click), shown, self._note)
            self.loop.submit(SetLabel(result.object_ids[0], f"disc {place}"), None, self._note)
        elif place == 15 and result.object_ids:
            self.survived += 1
            self.loop.submit(Remove(result.object_ids[0]), None, self._note)

    def _note(self, snapshot: object, error: str) -> None:
        if error:
            self.errors.append(error)


def test_nothing_grows_over_twenty_thousand_frames(small_bundle: Callable[[Pooling], Path], tmp_path: Path) -> None:
    from etam_edge.live.server import PageServer

    pictures = [clip_frame(index) for index in range(70)]

    def camera() -> MadeUpCamera:
        return MadeUpCamera(lambda number: pictures[number % len(pictures)], FRAMES_EACH, cause=Cause.BROKEN)

    def reopen() -> FrameSource:
        return camera()

    labels: dict[int, str] = {}
    request = OutputRequest(scores=tmp_path / "scores.jsonl")
    total = (BREAKS + 1) * FRAMES_EACH
    with (
        Tracker.load(small_bundle(Pooling.NONE), threads=1) as tracker,
        tracker.start_session(True, max_objects=3) as session,
        PageServer(Address(port=0), None, {}) as server,
        Watched(request, None, [], labels) as sinks,
        FrameReader(camera(), reopen, Delivery(every_frame=True), first_wait=0.001) as reader,
    ):
        loop = LiveLoop(session, reader, PromptPlan([]), labels, sinks, server, LoopOptions(max_frames=total))
        sinks.loop = loop
        server.attach(loop)
        host = server.url.partition("//")[2].strip("/")
        watching = threading.Thread(target=watch, args=(host,), daemon=True)
        with client.connect(f"ws://{host}/socket", origin=f"http://{host}", max_size=None):
            # One viewer that reads nothing, and one that shows every picture it gets.
            watching.start()
            loop.run()
            connections = reader.connections
        sinks.close()
    assert loop.count == total
    # The last connection breaks too, and may or may not be opened again before the run ends.
    assert connections in (BREAKS + 1, BREAKS + 2)
    assert sinks.errors == []
    assert sinks.survived == BREAKS
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert len(lines) == total
    names = [json.loads(line)["frame"] for line in lines]
    assert names == [f"{index:05d}" for index in range(total)]

    samples = np.array(sinks.samples)
    memory, threads, descriptors = samples[WARM_UP // SAMPLE_EVERY :].T
    mebibytes = memory / 2**20
    print(f"memory {mebibytes.min():.1f} to {mebibytes.max():.1f} MiB, threads {threads}, descriptors {descriptors}")
    assert memory.max() - memory[0] < GROWTH
    # The viewer that reads nothing may be dropped meanwhile, which closes its connection.
    assert threads.max() == threads[0]
    assert descriptors.max() == descriptors[0]


def watch(host: str) -> None:
    """A viewer that shows every picture at once, until the server ends."""
    from websockets.exceptions import ConnectionClosed

    try:
        with client.connect(f"ws://{host}/socket", origin=f"http://{host}", max_size=None) as page:
            while True:
                data = page.recv()
                if isinstance(data, bytes):
                    header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
                    page.send(json.dumps({"type": "ack", "snapshot": header["snapshot"]}))
    except ConnectionClosed:
        pass
