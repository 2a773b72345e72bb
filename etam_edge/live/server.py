"""The page in the browser: Starlette and uvicorn in a thread of their own."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from etam_edge.errors import InputError, RuntimeUnavailableError
from etam_edge.live.guard import Address, Guard
from etam_edge.live.loop import Audience, LiveLoop, Snapshot, Status
from etam_edge.live.viewers import Viewers

if TYPE_CHECKING:
    from starlette.applications import Starlette

PAGE = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""What the page consists of, by path: name of the file and its type."""
MAX_MESSAGE = 64 * 1024
"""Bytes of a message from a viewer, at most."""
START_SECONDS = 10.0


class PageServer(Audience):
    """Serves a run to browsers, from the beginning of a `with` block to its end.

    Args:
        address: to bind.
        token: that visitors need, or None.
        greeting: what does not change during the run, for the page.

    Attributes:
        url: where to open the page, with the token.

    Raises:
        InputError: the address cannot be bound.
        RuntimeUnavailableError: Starlette, uvicorn or websockets is not installed.
    """

    def __init__(self, address: Address, token: str | None, greeting: dict[str, Any]) -> None:
        _need_packages()
        self._socket = _bind(address)
        bound = Address(address.host, self._socket.getsockname()[1])
        self._viewers = Viewers({"type": "hello", **greeting})
        self._loop: LiveLoop | None = None
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._app = Guard(self._application(), token, f"etam-edge-{bound.port}")
        self.url = f"http://{_visible(bound)}/" + (f"?token={token}" if token else "")

    def show(self, snapshot: Snapshot) -> None:
        self._viewers.show(snapshot)

    def report(self, status: Status) -> None:
        self._viewers.report(status)

    def attach(self, loop: LiveLoop) -> None:
        """Send viewers' commands to this loop from now on."""
        self._loop = loop
        self._viewers.submit = loop.submit

    def __enter__(self) -> PageServer:
        import uvicorn

        config = uvicorn.Config(
            self._app,
            log_config=None,
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="etam-edge-page", daemon=True)
        self._thread.start()
        started.wait(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._viewers.close()
        self._socket.close()

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._viewers.start(asyncio.get_running_loop())
            started.set()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import Response
        from starlette.routing import Route, WebSocketRoute

        async def file(request: Request) -> Response:
            name, kind = FILES[request.url.path]
            return Response((PAGE / name).read_bytes(), media_type=kind)

        async def prompts(request: Request) -> Response:
            text = self._loop.prompts_json() if self._loop is not None else "[]\n"
            headers = {"content-disposition": 'attachment; filename="prompts.json"'}
            return Response(text, media_type="application/json", headers=headers)

        routes: list[Any] = [Route(path, file) for path in FILES]
        routes.append(Route("/prompts.json", prompts))
        routes.append(WebSocketRoute("/socket", self._viewers.serve))
        return Starlette(routes=routes)


def _bind(address: Address) -> socket.socket:
    """
    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(f"`serve={address}`: the host is not known ({error.strerror}); give an IP address") from error
    bound = socket.socket(family, kind, protocol)
    # A server that was just stopped leaves its port in a state that only this option can bind.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
        bound.listen()
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            other = Address(address.host, min(address.port + 1, 65535))
            message = (
                f"`serve={address}`: the port is taken by another program; give another one, as in `serve={other}`"
            )
        elif error.errno == errno.EACCES:
            message = f"`serve={address}`: ports below 1024 need more rights; give a higher one"
        else:
            message = f"`serve={address}` cannot be bound ({error.strerror}); give an address of this machine"
        raise InputError(message) from error
    return bound


def _visible(address: Address) -> Address:
    """The address to open in a browser: an address that stands for all of this machine's has to be replaced by one."""
    if address.host not in ("0.0.0.0", "::"):
        return address
    return Address(socket.gethostname(), address.port)


def _need_packages() -> None:
    """
    Raises:
        RuntimeUnavailableError: a package is missing.
    """
    missing = [name for name in ("starlette", "uvicorn", "websockets") if find_spec(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"the page needs {', '.join(missing)}, which cannot be imported; install it with: "
            'pip install "etam-edge[live]"'
        )
