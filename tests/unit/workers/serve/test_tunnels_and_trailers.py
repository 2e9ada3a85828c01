"""CONNECT reaches only handlers that can tunnel, and trailers pass between the engine and handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fake_engine import request
from tests.support.site import always
from tests.unit.workers.serve.test_exchanges import Stage
from velocity_edge.http.requests import BodyReceived
from workers.http import Request, Response
from workers.pipeline import fold
from workers.serve.revision import Revision

SUM = [(b"x-sum", b"1")]


class Tunnel:
    """A handler that can tunnel, and echoes."""

    tunnels = True

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        return Response(200, (), request.body)


def stage_of(handler: Any) -> Stage:
    stage = Stage(handler)
    stage.exchanges.use(Revision(1, always(handler)))
    return stage


# --- CONNECT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "protocol"), [(b"", b""), (b"/", b"connect-udp"), (b"/", b"WebSocket"), (b"/", b"websocket")]
)
def test_a_connect_is_refused_where_no_handler_can_tunnel(path: bytes, protocol: bytes) -> None:
    """A 200 of a handler that answers everything would promise a tunnel."""
    stage = stage_of(lambda request: Response(200, (), b"fixed"))
    stage.handle(request(1, path, method=b"CONNECT", authority=b"a:443", protocol=protocol, fin=False))
    assert stage.engine.answers[1].status == 501


@pytest.mark.parametrize("protocol", [b"", b"connect-udp", b"connect-ip", b"webtransport", b"websocket2"])
def test_a_handler_that_can_tunnel_gets_no_other_protocol(protocol: bytes) -> None:
    tunnel = Tunnel()
    stage = stage_of(tunnel)
    stage.handle(request(1, b"/", method=b"CONNECT", protocol=protocol, fin=False))
    assert (stage.engine.answers[1].status, tunnel.asked) == (501, [])


async def test_a_websocket_reaches_a_handler_that_can_tunnel() -> None:
    tunnel = Tunnel()
    stage = stage_of(tunnel)
    stage.handle(request(1, b"/chat?x", method=b"CONNECT", protocol=b"websocket", fin=False))
    await stage.settle()
    [asked] = tunnel.asked
    assert (asked.protocol, asked.path, asked.query) == (b"websocket", b"/chat", b"x")
    stage.handle(BodyReceived(1, b"ping", False))
    await stage.settle()
    answer = stage.engine.answers[1]
    assert (answer.status, answer.body, answer.fin) == (200, b"ping", False)
    stage.handle(BodyReceived(1, b"", True))
    await stage.settle()
    assert answer.fin


def test_middleware_does_not_hide_that_a_handler_can_tunnel() -> None:
    assert fold((), Tunnel()).tunnels
    assert not fold((), lambda request: Response(200)).tunnels


# --- trailers ---------------------------------------------------------------------------------------------------------


async def test_a_handler_sees_trailers_after_the_body() -> None:
    seen: list[Any] = []

    async def handler(request: Request) -> Response:
        seen.append(request.body.trailers)
        await request.body.read(100)
        seen.append(request.body.trailers)
        return Response(200)

    stage = Stage(handler)
    stage.handle(request(1, method=b"POST", fin=False))
    await stage.settle()
    stage.handle(BodyReceived(1, b"x", False), BodyReceived(1, b"", True, SUM))
    await stage.settle()
    assert seen == [(), SUM]


@pytest.mark.parametrize("trailers", [SUM, []])
async def test_trailers_of_a_response_are_asked_for_when_its_body_is_complete(trailers: Any) -> None:
    chunks: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b"):
            chunks.append(chunk)
            yield chunk

    stage = Stage(lambda request: Response(200, (), body(), trailers=lambda: trailers if len(chunks) == 2 else [None]))
    stage.handle(request(1))
    await stage.settle()
    answer = stage.engine.answers[1]
    assert (answer.body, answer.trailers, answer.fin) == (b"ab", trailers, True)


async def test_trailers_that_raise_reset_the_stream() -> None:
    """The client must not take a body for complete whose trailers are missing."""

    async def body() -> AsyncIterator[bytes]:
        yield b"a"

    def trailers() -> Any:
        raise LookupError("no sum")

    stage = Stage(lambda request: Response(200, (), body(), trailers=trailers))
    stage.handle(request(1))
    await stage.settle()
    assert not stage.engine.answers[1].fin
    assert list(stage.engine.resets) == [1]
