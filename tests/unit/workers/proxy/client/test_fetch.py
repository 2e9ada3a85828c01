"""One small request by URL ends within its time and size, and asks nobody but the host of the URL."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_upstream import CLOSE, NEXT, READ_BODY, RESET, ScriptedUpstream, flood, pause, send
from velocity_edge.http.requests import Outcome
from workers.proxy.client import AttemptFailed, fetch

HELLO = send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello")
LIMITS: dict[str, Any] = {"timeout_s": 5.0, "max_bytes": 1000}


class Names:
    """A resolver with one name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        return ["127.0.0.1"] if host == "a.test" else []


async def test_a_response_with_its_fields_and_body() -> None:
    with ScriptedUpstream(lambda _: [READ_BODY, HELLO, NEXT]) as server:
        fetched = await fetch(
            f"http://127.0.0.1:{server.port}/p?q=1#part", method="POST", headers=[(b"a", b"1")], body=b"form", **LIMITS
        )
        assert (fetched.status, fetched.body, fetched.header(b"x-a"), fetched.header(b"x")) == (
            200,
            b"hello",
            b"b",
            None,
        )
        [request] = server.requests
        assert request.head.split(b"\r\n")[0] == b"POST /p?q=1 HTTP/1.1"
        assert request.get(b"host") == b"127.0.0.1:%d" % server.port
        assert (request.get(b"a"), request.body) == (b"1", b"form")


async def test_a_name_is_resolved_and_an_address_is_not() -> None:
    names = Names()
    with ScriptedUpstream(lambda _: [HELLO, NEXT]) as server:
        assert (await fetch(f"http://a.test:{server.port}", resolver=names, **LIMITS)).body == b"hello"
        assert server.requests[0].get(b"host") == b"a.test:%d" % server.port
        await fetch(f"http://127.0.0.1:{server.port}/", resolver=names, **LIMITS)
        assert names.asked == ["a.test"]
        for resolver in (names, None):
            with pytest.raises(AttemptFailed, match="no address"):
                await fetch("http://b.test/", resolver=resolver, **LIMITS)


async def test_an_address_of_ipv6_and_a_unix_socket(tmp_path: Path) -> None:
    with ScriptedUpstream(lambda _: [HELLO, NEXT], family=socket.AF_INET6) as server:
        assert (await fetch(f"http://[::1]:{server.port}/", **LIMITS)).body == b"hello"
    with ScriptedUpstream(lambda _: [HELLO, NEXT], path=str(tmp_path / "s")) as server:
        assert (await fetch("http://a.test/", addresses=[server.address], **LIMITS)).body == b"hello"


async def test_a_redirect_is_an_answer() -> None:
    moved = send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
    with ScriptedUpstream(lambda _: [moved, NEXT]) as server:
        assert (await fetch(f"http://127.0.0.1:{server.port}/", **LIMITS)).header(b"location") == b"/there"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([send(b"HTTP/1.1 200 OK\r\n\r\n"), flood(b"x", 100_000_000), CLOSE], Outcome.INVALID),
        ([send(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001)), NEXT], Outcome.INVALID),
        ([send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), pause(9)], Outcome.RESPONSE_TIMEOUT),
        ([*(step for _ in range(50) for step in (send(b"H"), pause(0.1)))], Outcome.RESPONSE_TIMEOUT),
        ([RESET], Outcome.CLOSED_EARLY),
    ],
)
async def test_what_is_too_long_or_too_late_is_a_failure(steps: Any, outcome: Outcome) -> None:
    with ScriptedUpstream(lambda _: steps) as server:
        with pytest.raises(AttemptFailed) as caught:
            await fetch(f"http://127.0.0.1:{server.port}/", timeout_s=0.4, max_bytes=1000)
        assert caught.value.outcome == outcome


@pytest.mark.parametrize("url", ["ftp://a.test/", "http:///x", "a.test", "http://u@a.test/", "http://127.0.0.1/a b"])
async def test_a_url_that_cannot_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^cannot "):
        await fetch(url, **LIMITS)
