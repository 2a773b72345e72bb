"""Who may see the page."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from etam_edge.errors import InputError
from etam_edge.live.guard import HEADERS, TOKEN_VARIABLE, Address, Guard, choose_token, parse_address

TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("0.0.0.0:80", "0.0.0.0", 80),
        (":9000", "127.0.0.1", 9000),
        ("9000", "127.0.0.1", 9000),
        ("robot.local", "robot.local", 8642),
        ("[::1]:8000", "::1", 8000),
        ("[::]", "::", 8642),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "127.0.0.1:", "127.0.0.1:http", "host:99999", "http://host:80", "a b:80", "::"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an address; give HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.2", False),
        ("robot", False),
    ],
)
def test_an_address_that_others_can_reach_needs_a_token(host: str, loopback: bool) -> None:
    tokens = {choose_token(Address(host), {}) for _ in range(3)}
    if loopback:
        assert tokens == {None}
    else:
        assert len(tokens) == 3
        assert all(token is not None and len(token) >= 32 for token in tokens)


def test_a_token_of_the_users_own_is_used_everywhere_and_must_be_long() -> None:
    assert choose_token(Address(), {TOKEN_VARIABLE: TOKEN}) == TOKEN
    for poor in ("short", "sixteen characters", "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(InputError, match=TOKEN_VARIABLE):
            choose_token(Address(), {TOKEN_VARIABLE: poor})


class Site:
    """The guard before an application that answers everything."""

    def __init__(self, token: str | None) -> None:
        self._guard = Guard(self._application, token, "cookie-8642")
        self.reached = False

    async def _application(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.reached = True
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"page"})

    def ask(
        self, kind: str = "http", query: str = "", host: str = "127.0.0.1:8642", **headers: str
    ) -> list[dict[str, Any]]:
        """The messages that a request is answered with."""
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        given = [(b"host", host.encode()), *((name.encode(), value.encode()) for name, value in headers.items())]
        scope = {"type": kind, "path": "/", "query_string": query.encode(), "headers": given}
        self.reached = False
        asyncio.run(self._guard(scope, None, send))
        return sent


def status(messages: list[dict[str, Any]]) -> int:
    number: int = messages[0]["status"]
    return number


def test_without_a_token_only_names_of_this_machine_are_answered() -> None:
    site = Site(None)
    for host in ("127.0.0.1:8642", "localhost:8642", "[::1]:8642"):
        answer = site.ask(host=host)
        assert status(answer) == 200
    # The address of another site that leads to this machine: DNS rebinding.
    for host in ("evil.example:8642", "", "127.0.0.1.evil.example"):
        assert status(site.ask(host=host)) == 403
        assert not site.reached


def test_every_answer_has_the_security_headers() -> None:
    for site, query in ((Site(None), ""), (Site(TOKEN), ""), (Site(TOKEN), f"token={TOKEN}")):
        names = {name.decode() for name, _ in site.ask(query=query)[0]["headers"]}
        assert set(HEADERS) <= names


def test_a_token_is_demanded_and_moves_into_a_cookie() -> None:
    site = Site(TOKEN)
    for wrong in ("", "token=", "token=wrong", f"token={TOKEN}x", "token=%C3%A9"):
        assert status(site.ask(query=wrong, host="robot:8642")) == 401
        assert not site.reached
    answer = site.ask(query=f"token={TOKEN}", host="robot:8642")
    headers = dict(answer[0]["headers"])
    assert status(answer) == 303
    assert headers[b"location"] == b"/"
    cookie = headers[b"set-cookie"].decode()
    assert cookie == f"cookie-8642={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert status(site.ask(host="robot:8642", cookie=f"other=1; {cookie.partition(';')[0]}")) == 200
    assert status(site.ask(host="robot:8642", authorization=f"Bearer {TOKEN}")) == 200
    assert status(site.ask(host="robot:8642", cookie="cookie-8642=wrong")) == 401
    assert status(site.ask(host="robot:8642", authorization=f"Basic {TOKEN}")) == 401


@pytest.mark.parametrize(
    ("token", "headers", "opens"),
    [
        (None, {"origin": "http://127.0.0.1:8642"}, True),
        (None, {"origin": "http://127.0.0.1:9999"}, False),
        (None, {"origin": "https://evil.example"}, False),
        (None, {"origin": "null"}, False),
        (None, {}, False),
        (TOKEN, {"origin": "http://127.0.0.1:8642"}, False),
        (TOKEN, {"origin": "http://127.0.0.1:8642", "cookie": f"cookie-8642={TOKEN}"}, True),
        (TOKEN, {"origin": "https://evil.example", "cookie": f"cookie-8642={TOKEN}"}, False),
        (TOKEN, {"origin": "http://127.0.0.1:8642", "cookie": "cookie-8642=wrong"}, False),
    ],
)
def test_a_websocket_needs_the_token_and_the_origin_of_the_page(
    token: str | None, headers: dict[str, str], opens: bool
) -> None:
    site = Site(token)
    answer = site.ask("websocket", **headers)
    assert site.reached is opens
    assert [message["type"] for message in answer] == ([] if opens else ["websocket.close"])


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, expected: bytes) -> bool:
        assert expected == TOKEN.encode()
        compared.append(given)
        return given == expected

    monkeypatch.setattr("etam_edge.live.guard.secrets.compare_digest", compare)
    assert (
        status(Site(TOKEN).ask(query="token=first", cookie="cookie-8642=second", authorization="Bearer third")) == 401
    )
    assert compared == [b"first", b"second", b"third"]
