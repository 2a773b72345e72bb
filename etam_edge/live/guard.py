"""Who may see the page: the token, and the Host and Origin of requests."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from etam_edge.errors import InputError

TOKEN_VARIABLE = "ETAM_EDGE_TOKEN"
"""Environment variable with a token of the user's own."""
SHORTEST_TOKEN = 16
"""Characters of a token of the user's own, at least."""
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8642
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*)(?::(\d{1,5}))?", re.ASCII)
"""A host, with the brackets of an IPv6 address, and a port; both may be missing."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    # Everything comes from the page's own address, nothing is cached, and no other page may embed it.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
REFUSED_BY_WEBSOCKET = 1008
"""Close code "policy violation"; before the handshake, servers answer 403."""


@dataclass(frozen=True)
class Address:
    """Where the page is served.

    Attributes:
        host: name or IP address to bind.
        port: 0 for one that is free.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """An address of "HOST:PORT", ":PORT", "PORT" or "HOST"; IPv6 addresses stand in brackets, as in "[::1]:8642".

    Raises:
        InputError: the text is not of that form.
    """
    found = ADDRESS.fullmatch(f":{text}" if text.isdecimal() else text)
    if found is None or not text or int(found[2] or 0) > 65535:
        raise InputError(f"`serve={text}` is not an address; give HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}")
    return Address(found[1].strip("[]") or DEFAULT_HOST, int(found[2] or DEFAULT_PORT))


def choose_token(address: Address, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that visitors need: the user's own, or a new one where other machines can reach the page.

    Raises:
        InputError: the user's own token is too short.
    """
    own = environment.get(TOKEN_VARIABLE)
    if own is None:
        return None if address.is_loopback else secrets.token_urlsafe(24)
    if len(own) < SHORTEST_TOKEN or not own.isascii() or not own.isprintable() or " " in own or ";" in own:
        raise InputError(
            f"the token in {TOKEN_VARIABLE} is too short or has unusual characters; set {SHORTEST_TOKEN} or more "
            "letters and digits, or unset the variable"
        )
    return own


class Guard:
    """ASGI middleware that refuses requests before the application sees them.

    - With a token, every request carries it: in the address (`/?token=...`, which sets a cookie and leaves the
      address), in the cookie, or as `Authorization: Bearer ...`. It is compared in constant time.
    - Without one, `Host` names this machine, so that a page of another site whose name leads here reads nothing.
    - A WebSocket's `Origin` is the address that it was opened at. Browsers always send it.

    Args:
        app: the application.
        token: or None.
        cookie: name of the cookie, which holds for all ports of a host and so names its own.
    """

    def __init__(self, app: Any, token: str | None, cookie: str) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._fault(scope, headers)
        if scope["type"] == "websocket":
            if fault:
                await send({"type": "websocket.close", "code": REFUSED_BY_WEBSOCKET, "reason": fault})
            else:
                await self._app(scope, receive, send)
            return
        if fault:
            await _respond(send, 401 if self._token else 403, f"{fault}\n")
        elif self._token and _token_in_query(scope):
            await _respond(send, 303, "", {"location": scope["path"], "set-cookie": self._set_cookie()})
        else:
            await self._app(scope, receive, _with_headers(send))

    def _fault(self, scope: dict[str, Any], headers: Mapping[str, str]) -> str:
        """What is wrong with a request, or ""."""
        host = headers.get("host", "")
        if self._token is None:
            if _host_name(host) not in LOOPBACK_NAMES:
                return "This page is for this machine only: open it at 127.0.0.1 or localhost."
        elif not self._knows_token(scope, headers):
            return "A token is needed: open the address that etam-edge printed when it started."
        if scope["type"] == "websocket" and urlsplit(headers.get("origin", "")).netloc.lower() != host.lower():
            return "The WebSocket is opened by another page."
        return ""

    def _knows_token(self, scope: dict[str, Any], headers: Mapping[str, str]) -> bool:
        if self._token is None:
            return False
        given = [_token_in_query(scope), _cookie(headers.get("cookie", ""), self._cookie)]
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given.append(bearer.strip() if scheme.lower() == "bearer" else "")
        # All three are compared, so that the time does not tell which one was right.
        found = [secrets.compare_digest(one.encode(), self._token.encode()) for one in given]
        return any(found)

    def _set_cookie(self) -> str:
        return f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token_in_query(scope: dict[str, Any]) -> str:
    values = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
    return values[0]


def _cookie(header: str, name: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


def _with_headers(send: Any) -> Any:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending


async def _respond(send: Any, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
    given = {"content-type": "text/plain; charset=utf-8", **HEADERS, **(headers or {})}
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(name.encode(), value.encode()) for name, value in given.items()]})
    await send({"type": "http.response.body", "body": text.encode()})
