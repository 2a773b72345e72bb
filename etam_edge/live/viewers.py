"""Browsers that watch a run. Each receives pictures as fast as it shows them, and none waits for another."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etam_edge.errors import InputError
from etam_edge.live.commands import Acknowledge, AddPrompt, Command, Freeze, parse_message
from etam_edge.live.loop import Answer, Snapshot, Status
from etam_edge.live.picture import encode_picture, objects_of

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

MAX_VIEWERS = 16
SHORTEST_GAP = 1 / 30
"""Seconds between two pictures of a viewer: more than 30 a second only cost time."""
MAX_NOTES = 32
"""Texts that wait for a viewer; the oldest are dropped."""
PINNED = 3
"""Snapshots that a viewer may click on: the one it shows, one under way, and the answer to a command."""
TRY_AGAIN_LATER = 1013
"""Close code of a WebSocket where there are MAX_VIEWERS."""

Submit = Callable[[Command, Snapshot | None, Answer], None]


class Viewers:
    """All viewers of a run. Everything here runs in the server's event loop, except `show` and `report`.

    Args:
        greeting: what a viewer is told first: the type "hello", and what does not change during the run.
    """

    def __init__(self, greeting: dict[str, Any]) -> None:
        self._greeting = greeting
        self._viewers: set[_Viewer] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="etam-edge-picture")
        self._encoded: tuple[int, asyncio.Future[bytes]] | None = None
        self.submit: Submit | None = None
        self.newest: Snapshot | None = None
        self.status: Status | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run in this event loop from now on."""
        self._loop = loop

    def show(self, snapshot: Snapshot) -> None:
        """From the thread of the tracker: there is a newer snapshot."""
        self.newest = snapshot
        self._wake_all()

    def report(self, status: Status) -> None:
        """From the thread of the tracker: the state has changed."""
        self.status = status
        self._wake_all()

    def _wake_all(self) -> None:
        if self._viewers and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_in_loop)

    def _wake_in_loop(self) -> None:
        for viewer in self._viewers:
            viewer.wake()

    async def picture(self, snapshot: Snapshot) -> bytes:
        """The message of a snapshot, encoded once for all viewers that ask for it at the same time."""
        if self._encoded is None or self._encoded[0] != snapshot.number:
            loop = asyncio.get_running_loop()
            self._encoded = snapshot.number, loop.run_in_executor(self._encoder, encode_picture, snapshot)
        return await asyncio.shield(self._encoded[1])

    async def serve(self, websocket: WebSocket) -> None:
        """One viewer, until it leaves."""
        from starlette.websockets import WebSocketDisconnect

        await websocket.accept()
        if len(self._viewers) >= MAX_VIEWERS:
            await websocket.close(TRY_AGAIN_LATER, "too many viewers")
            return
        viewer = _Viewer(self, websocket)
        viewer.note(self._greeting)
        self._viewers.add(viewer)
        sending = asyncio.create_task(viewer.send())
        try:
            while True:
                viewer.receive(await websocket.receive_text())
        except (WebSocketDisconnect, KeyError, RuntimeError):
            # It left, sent bytes instead of text, or the connection broke while something was sent.
            pass
        finally:
            self._viewers.discard(viewer)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def close(self) -> None:
        """Stop encoding."""
        self._encoder.shutdown(wait=True, cancel_futures=True)


class _Viewer:
    """One browser.

    A picture is sent when the one before has been shown. A viewer that is slow, or does not answer at all, holds the
    last PINNED snapshots that it was sent and no more.
    """

    def __init__(self, viewers: Viewers, websocket: WebSocket) -> None:
        self._viewers = viewers
        self._websocket = websocket
        self._woken = asyncio.Event()
        self._notes: deque[str] = deque(maxlen=MAX_NOTES)
        # The frames that a click of this viewer may belong to.
        self._pinned: deque[Snapshot] = deque(maxlen=PINNED)
        self._shows_last = True
        self._answer: Snapshot | None = None
        self._status: Status | None = None
        self._frozen = False

    def wake(self) -> None:
        self._woken.set()

    def note(self, message: dict[str, Any]) -> None:
        """Send a text as soon as possible."""
        self._notes.append(json.dumps(message))
        self._woken.set()

    def receive(self, text: str) -> None:
        """Handle a message of the page."""
        try:
            message = parse_message(text)
        except InputError as error:
            self.note({"type": "answer", "error": str(error)})
            return
        if isinstance(message, Acknowledge):
            self._shows_last = self._shows_last or self._pinned[-1].number == message.snapshot
            self.wake()
        elif isinstance(message, Freeze):
            # A frozen page does not show what is under way, and does not acknowledge it.
            self._frozen, self._shows_last = message.on, True
            self.wake()
        else:
            self._submit(message)

    def _submit(self, command: Command) -> None:
        number = command.snapshot if isinstance(command, AddPrompt) else None
        clicked = next((one for one in self._pinned if one.number == number), None)
        loop = asyncio.get_running_loop()

        def answer(snapshot: Snapshot | None, error: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answered, snapshot, error)

        submit = self._viewers.submit
        if submit is None:
            self.note({"type": "answer", "error": "the run is starting; try again"})
        else:
            submit(command, clicked, answer)

    def _answered(self, snapshot: Snapshot | None, error: str) -> None:
        self._answer = snapshot or self._answer
        self.note({"type": "answer", "error": error, "snapshot": snapshot.number if snapshot else None})

    async def send(self) -> None:
        """Send what there is, again and again."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._notes:
                await self._websocket.send_text(self._notes.popleft())
            if self._viewers.status is not self._status and self._viewers.status is not None:
                self._status = self._viewers.status
                await self._websocket.send_text(json.dumps(self._status_message(self._status)))
            snapshot = self._next_picture()
            if snapshot is not None:
                self._pinned.append(snapshot)
                self._shows_last = False
                await self._websocket.send_bytes(await self._viewers.picture(snapshot))
                await asyncio.sleep(SHORTEST_GAP)
                self.wake()

    def _next_picture(self) -> Snapshot | None:
        """What to send now: the answer to the viewer's own command, or the newest once the last one is shown."""
        if self._answer is not None:
            answer, self._answer = self._answer, None
            return answer
        newest = self._viewers.newest
        if self._frozen or not self._shows_last or newest is None:
            return None
        return newest if not self._pinned or newest.number != self._pinned[-1].number else None

    def _status_message(self, status: Status) -> dict[str, Any]:
        report, newest = status.report, self._viewers.newest
        return {
            "type": "status",
            "history": [list(asdict(second).values()) for second in status.history],
            "frames": report.frames,
            "skipped": report.skipped,
            "seconds": round(report.seconds, 1),
            "age": _rounded(asdict(report.age)),
            "frameTime": _rounded(asdict(report.frame_time)),
            "connections": report.connections,
            "fault": status.fault,
            "playing": status.playing,
            "ended": status.ended,
            "prompts": status.prompts,
            "snapshot": 0 if newest is None else newest.number,
            "objects": [] if newest is None else objects_of(newest),
        }


def _rounded(percentiles: dict[str, float]) -> dict[str, float | None]:
    # NaN is no JSON.
    return {name: round(value, 2) if value == value else None for name, value in percentiles.items()}
