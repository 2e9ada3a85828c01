"""Extended CONNECT of a client (RFC 9220) becomes an upgrade at an HTTP/1.1 upstream (RFC 6455), and then raw bytes."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.engine_driver import Response, StockClient, pattern
from tests.support.upstream_world import Upstream, UpstreamWorld, closes_after, forward_request, forwarding, read_head
from velocity_edge.http.requests import Outcome, RequestReceived
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

SECOND_NS = 1_000_000_000


def as_websocket(request: RequestReceived) -> ForwardRequest:
    return replace(forward_request(request), protocol=request.protocol, max_body_bytes=10)


def connect(world: UpstreamWorld) -> tuple[StockClient, Response]:
    """Return a client, and the response to its extended CONNECT."""
    client = world.client()
    assert client.http is not None
    stream_id = client.quic.get_next_available_stream_id()
    response = client.responses[stream_id] = Response(stream_id)
    client.http.send_headers(
        stream_id,
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"https"),
            (b":path", b"/chat?a=b"),
            (b":authority", b"velocity.test"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-protocol", b"chat"),
            (b"origin", b"https://velocity.test"),
        ],
    )
    return client, response


def accept(head: bytes) -> bytes:
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    assert len(base64.b64decode(fields[b"sec-websocket-key"])) == 16
    digest = hashlib.sha1(fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def switch(head: bytes, after: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept(head)
        + b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        + after
    )


def upgraded(
    then: Callable[[socket.socket], None], heads: list[bytes] | None = None, after: bytes = b""
) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        head = read_head(connection)
        if heads is not None:
            heads.append(head)
        connection.sendall(switch(head, after))
        then(connection)

    return script


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65_536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def test_a_tunnel() -> None:
    heads: list[bytes] = []
    with (
        Upstream(upgraded(echo, heads, after=b"hello")) as upstream,
        forwarding(upstream, request=as_websocket) as world,
    ):
        client, response = connect(world)
        world.until(lambda: response.body == b"hello")
        assert response.status == 200
        assert response.headers == {b"sec-websocket-protocol": b"chat"}
        assert client.http is not None
        client.http.send_data(response.stream_id, b"\x81\x05world", end_stream=False)
        world.until(lambda: response.body == b"hello\x81\x05world")
        client.http.send_data(response.stream_id, pattern(300_000), end_stream=False)
        world.until(lambda: len(response.body) == 300_012)
        assert bytes(response.body[12:]) == pattern(300_000)
        assert world.ends == []
        client.http.send_data(response.stream_id, b"", end_stream=True)
        world.until(lambda: response.done)
        end = world.ended()
        assert (end.outcome, end.status) == (Outcome.COMPLETE, 200)
        assert (end.request_bytes, end.response_bytes) == (300_007, 300_012)
        assert world.counts().open == 0
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /chat?a=b HTTP/1.1"
    assert {b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"} <= set(lines)


def test_the_upstream_ends_first() -> None:
    received: list[bytes] = []

    def script(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(100):
            received.append(data)

    with Upstream(upgraded(script)) as upstream, forwarding(upstream, request=as_websocket) as world:
        client, response = connect(world)
        world.until(lambda: response.done)
        assert bytes(response.body) == b"bye"
        assert world.ends == []  # the other half is open
        assert client.http is not None
        client.http.send_data(response.stream_id, b"last", end_stream=True)
        world.until(lambda: world.ends != [])
        assert world.ended().outcome == Outcome.COMPLETE
        world.until(lambda: received == [b"last"])


def test_the_upstream_breaks_the_tunnel() -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with Upstream(upgraded(script)) as upstream, forwarding(upstream, request=as_websocket) as world:
        client, response = connect(world)
        world.until(lambda: response.status == 200)
        assert client.http is not None
        client.http.send_data(response.stream_id, b"x", end_stream=False)
        world.until(lambda: response.over)
        assert response.reset is not None
        assert world.ended().outcome == Outcome.TRUNCATED


def test_an_idle_tunnel_ends() -> None:
    settings = PoolSettings(idle_timeout_ns=4 * SECOND_NS)
    with (
        Upstream(upgraded(echo)) as upstream,
        forwarding(upstream, request=as_websocket, settings=settings) as world,
    ):
        client, response = connect(world)
        world.until(lambda: response.status == 200)
        world.pass_time(3)
        assert client.http is not None
        client.http.send_data(response.stream_id, b"x", end_stream=False)
        world.until(lambda: response.body == b"x")
        world.pass_time(3)
        assert world.ends == []
        world.pass_time(1.5)
        assert world.ended().outcome == Outcome.IDLE_TIMEOUT


def test_a_refusal_is_passed_on() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
    with Upstream(closes_after(refusal)) as upstream, forwarding(upstream, request=as_websocket) as world:
        _, response = connect(world)
        world.until(lambda: response.over)
        assert (response.status, bytes(response.body)) == (403, b"no")
        assert (world.ended().outcome, world.ended().status) == (Outcome.COMPLETE, 403)


WRONG = {
    "accept": lambda head: switch(head).replace(accept(head), base64.b64encode(bytes(20))),
    "no accept": lambda head: switch(head).replace(b"Sec-WebSocket-Accept", b"X"),
    "other protocol": lambda head: switch(head).replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "no connection": lambda head: switch(head).replace(b"Connection: Upgrade\r\n", b""),
    "a body": lambda head: switch(head).replace(b"\r\n\r\n", b"\r\ncontent-length: 1\r\n\r\nx"),
    "a coding": lambda head: switch(head).replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_an_upgrade_that_is_wrong(answer: Callable[[bytes], bytes]) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(answer(read_head(connection)))
        connection.recv(1)

    with Upstream(script) as upstream, forwarding(upstream, request=as_websocket) as world:
        _, response = connect(world)
        world.until(lambda: response.over)
        assert response.status == 502
        assert (world.ended().outcome, world.ended().head_sent) == (Outcome.INVALID, False)
