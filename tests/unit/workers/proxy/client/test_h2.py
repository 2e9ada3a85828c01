"""Requests share an HTTP/2 connection without disturbing each other, and a connection that ends costs only its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import StreamReset, TrailersReceived
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from tests.support.h2_upstream import Fields, H2Upstream, Script, h2_upstream
from tests.support.scripted_upstream import ScriptedUpstream, pause, send
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings
from workers.proxy.client import AttemptFailed, Client, UpstreamResponse
from workers.proxy.client.h2 import H2Connection as H2Client

SETTINGS = PoolSettings(
    protocol="h2",
    connect_timeout_ns=15_000_000_000,
    response_timeout_ns=15_000_000_000,
    idle_timeout_ns=15_000_000_000,
)
GET = ForwardRequest(b"GET", b"/hello", b"a.test", [(b"accept", b"*/*")])
POST = replace(GET, method=b"POST")
TUNNEL = replace(GET, method=b"CONNECT", protocol=b"websocket", fields=[(b"sec-websocket-version", b"13")])


def client_of(upstream: Any, settings: PoolSettings = SETTINGS) -> Client:
    client = Client(settings)
    client.use_addresses([upstream.address])
    return client


async def whole(response: UpstreamResponse) -> bytes:
    return b"".join([chunk async for chunk in response.body])


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def answers(status: bytes = b"200", body: bytes = b"hello", *fields: tuple[bytes, bytes]) -> Script:
    def script(parser: H2Connection, stream: int, _fields: Fields) -> None:
        parser.send_headers(stream, [(b":status", status), *fields], end_stream=not body)
        if body:
            parser.send_data(stream, body, end_stream=True)

    return script


def silent(_parser: H2Connection, _stream: int, _fields: Fields) -> None:
    pass


async def failure(client: Client, request: ForwardRequest = GET) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        await whole(await client.request(request))
    return caught.value


async def test_requests_that_begin_together_share_a_connection() -> None:
    async with h2_upstream(H2Upstream(answers())) as upstream:
        client = client_of(upstream)

        async def one() -> bytes:
            return await whole(await client.request(GET))

        assert await asyncio.gather(*(one() for _ in range(50))) == [b"hello"] * 50
        assert upstream.connections == 1
        assert upstream.requests[0] == {
            b":method": b"GET",
            b":scheme": b"http",
            b":authority": b"a.test",
            b":path": b"/hello",
            b"accept": b"*/*",
        }
        client.close()


async def test_a_server_that_permits_fewer_streams_gets_more_connections() -> None:
    held: list[tuple[H2Connection, int]] = []
    async with h2_upstream(H2Upstream(lambda p, s, _: held.append((p, s)), max_streams=2)) as upstream:
        client = client_of(upstream)
        tasks = [asyncio.ensure_future(client.request(GET)) for _ in range(5)]
        await until(lambda: len(held) == 5, "five requests")
        assert upstream.connections == 3
        for parser, stream in held:
            answers()(parser, stream, {})
        upstream.flush()
        assert [await whole(await task) for task in tasks] == [b"hello"] * 5
        client.close()


async def test_bodies_and_trailers_pass_both_ways() -> None:
    def script(parser: H2Connection, stream: int, _fields: Fields) -> None:
        parser.send_headers(stream, [(b":status", b"103"), (b"link", b"</a>")])
        parser.send_headers(stream, [(b":status", b"200")])
        parser.send_data(stream, b"part")
        parser.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)

    body = b"x" * 300_000
    hints: list[Any] = []
    started = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield body
        started.set()

    upstream = H2Upstream(silent)

    def on_data(parser: H2Connection, stream: int, _data: bytes) -> None:
        if len(upstream.bodies[stream]) == len(body):
            script(parser, stream, {})

    upstream.on_data = on_data
    async with h2_upstream(upstream):
        client = client_of(upstream)
        request = replace(POST, fields=[(b"te", b"trailers")])
        response = await client.request(
            request, slow(), trailers=lambda: [(b"x-end", b"1")], on_informational=lambda *seen: hints.append(seen)
        )
        assert await whole(response) == b"part"
        assert response.trailers == [(b"grpc-status", b"0")]
        assert hints == [(103, [(b"link", b"</a>")])]
        assert upstream.requests[0][b"te"] == b"trailers"
        assert list(upstream.bodies.values()) == [body]
        await until(lambda: [e for e in upstream.events if isinstance(e, TrailersReceived | StreamReset)], "the end")
        client.close()


async def test_a_client_that_is_behind_stops_its_own_stream_only() -> None:
    def script(parser: H2Connection, stream: int, fields: Fields) -> None:
        parser.send_headers(stream, [(b":status", b"200")])
        room = parser.local_flow_control_window(stream) if fields[b":path"] == b"/big" else 5
        for at in range(0, room, 16384):
            parser.send_data(stream, b"x" * min(16384, room - at))
        if fields[b":path"] != b"/big":
            parser.end_stream(stream)

    async with h2_upstream(H2Upstream(script)) as upstream:
        client = client_of(upstream)
        behind = await client.request(replace(GET, target=b"/big"))
        await until(lambda: behind.attempt.response_bytes >= 131_072, "the window to be full")
        for _ in range(20):
            assert await whole(await client.request(GET)) == b"xxxxx"
        assert (upstream.connections, behind.attempt.response_bytes) == (1, 131_072)
        got = 0
        async for chunk in behind.body:
            got += len(chunk)
            if got == 131_072:
                break
        await until(lambda: upstream.parsers[0].local_flow_control_window(1) >= 65_536, "window to be given back")
        await behind.aclose()
        client.close()


async def test_an_upstream_that_is_behind_stops_the_client() -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 16384

    async with h2_upstream(H2Upstream(silent, credit=False)) as upstream:
        client = client_of(upstream, replace(SETTINGS, idle_timeout_ns=200_000_000))
        with pytest.raises(AttemptFailed) as caught:
            await client.request(replace(POST, max_body_bytes=2**40), endless())
        assert caught.value.outcome == Outcome.RESPONSE_TIMEOUT
        assert asked < 10
        client.close()


async def test_goaway_ends_only_the_streams_above_the_one_it_names() -> None:
    held: list[tuple[H2Connection, int]] = []
    async with h2_upstream(H2Upstream(lambda p, s, _: held.append((p, s)))) as upstream:
        client = client_of(upstream)
        tasks = [asyncio.ensure_future(client.request(GET)) for _ in range(3)]
        await until(lambda: len(held) == 3, "three requests")
        frame = GoAwayFrame(0)
        frame.last_stream_id = 3
        upstream.writers[0].write(frame.serialize())
        with pytest.raises(AttemptFailed) as caught:
            await tasks[2]
        assert (caught.value.outcome, caught.value.reused) == (Outcome.CLOSED_EARLY, True)
        for parser, stream in held[:2]:
            answers()(parser, stream, {})
        upstream.flush()
        assert [await whole(await task) for task in tasks[:2]] == [b"hello"] * 2
        upstream.script = answers()
        assert await whole(await client.request(GET)) == b"hello"
        assert upstream.connections == 2
        client.close()


async def test_cancellation_resets_the_stream_and_keeps_the_connection() -> None:
    scripts: dict[bytes, Script] = {b"/wait": silent, b"/hello": answers()}
    async with h2_upstream(H2Upstream(lambda p, s, f: scripts[f[b":path"]](p, s, f))) as upstream:
        client = client_of(upstream)
        await whole(await client.request(GET))
        begun = asyncio.ensure_future(client.request(replace(GET, target=b"/wait")))
        await until(lambda: len(upstream.requests) == 2, "the request")
        begun.cancel()
        await until(lambda: [e for e in upstream.events if isinstance(e, StreamReset)], "RST_STREAM")
        client.close()


@pytest.mark.parametrize("late", [b"103", b"200"])
async def test_a_head_that_crosses_a_cancellation_ends_no_other_request(late: bytes) -> None:
    held: list[tuple[H2Connection, int]] = []
    async with h2_upstream(H2Upstream(lambda p, s, _: held.append((p, s)))) as upstream:
        client = client_of(upstream)
        stays, goes = (asyncio.ensure_future(client.request(GET)) for _ in range(2))
        await until(lambda: len(held) == 2, "two requests")
        goes.cancel()
        frame = HeadersFrame(held[1][1], held[1][0].encoder.encode([(b":status", late)]), flags=["END_HEADERS"])
        upstream.writers[0].write(frame.serialize())
        await until(lambda: [e for e in upstream.events if isinstance(e, StreamReset)], "RST_STREAM")
        upstream.writers[0].write(frame.serialize())
        answers()(*held[0], {})
        upstream.flush()
        assert await whole(await stays) == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (answers(b"101"), Outcome.INVALID),
        (answers(b"700"), Outcome.INVALID),
        (answers(b"200", b"hello", (b"content-length", b"9")), Outcome.TRUNCATED),
        (answers(b"200", b"", (b"content-length", b"9")), Outcome.TRUNCATED),
        (answers(b"200", b"hello", (b"content-length", b"3")), Outcome.TRUNCATED),
        (answers(b"200", b"hello", (b"x", b"y" * 70_000)), Outcome.INVALID),
        (answers(b"200", b"hello", *[(b"x", b"y")] * 200), Outcome.INVALID),
        (lambda p, s, _: p.reset_stream(s, ErrorCodes.REFUSED_STREAM), Outcome.CLOSED_EARLY),
        (lambda p, s, _: [p.send_headers(s, [(b":status", b"103")]) for _ in range(99)], Outcome.INVALID),
    ],
)
async def test_a_response_that_is_wrong_ends_in_its_outcome(script: Any, outcome: Outcome) -> None:
    upstream = H2Upstream(script)
    async with h2_upstream(upstream):
        client = client_of(upstream)
        assert (await failure(client)).outcome == outcome
        upstream.script = answers()
        assert await whole(await client.request(GET)) == b"hello"
        client.close()


async def test_content_where_there_is_none_is_refused() -> None:
    async with h2_upstream(H2Upstream(answers())) as upstream:
        client = client_of(upstream)
        assert (await failure(client, replace(GET, method=b"HEAD"))).outcome == Outcome.TRUNCATED
        upstream.script = answers(b"304", b"", (b"content-length", b"9"))
        assert await whole(await client.request(GET)) == b""
        client.close()


@pytest.mark.parametrize(
    "frames",
    [
        PingFrame(0, b"12345678").serialize() * 10_000,
        DataFrame(1, b"").serialize() * 10_000,
        HeadersFrame(1, b"\xff" * 100, flags=["END_HEADERS"]).serialize(),
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00\x00\x04\x07\x00" + bytes(8),
    ],
)
async def test_floods_and_broken_frames_end_the_connection(frames: bytes) -> None:
    upstream = H2Upstream(lambda p, s, _: upstream.writers[-1].write(frames))
    async with h2_upstream(upstream):
        client = client_of(upstream)
        assert (await failure(client)).outcome == Outcome.INVALID
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()


async def test_a_server_that_does_not_read_the_answers_it_asks_for_is_left() -> None:
    """Answers to PING wait for no room, so that their number must be bounded."""

    class Full(asyncio.Transport):
        aborted = False

        def write(self, data: bytes | bytearray | memoryview) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return 5 * 1024 * 1024

        def is_closing(self) -> bool:
            return self.aborted

        def is_reading(self) -> bool:
            return True

        def abort(self) -> None:
            self.aborted = True

    transport, connection = Full(), H2Client(SETTINGS, "", lambda _: None)
    connection.connection_made(transport)
    connection.data_received(SettingsFrame(0).serialize() + PingFrame(0, b"12345678").serialize())
    assert transport.aborted


async def test_a_server_without_http2_is_no_connection() -> None:
    with ScriptedUpstream(lambda _: [send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), pause(5)]) as upstream:
        client = client_of(upstream)
        error = await failure(client)
        assert error.outcome == Outcome.CONNECT_FAILED
        assert "HTTP/2" in error.reason
        client.close()


@pytest.mark.parametrize("accepts", [True, False])
async def test_a_websocket_is_an_extended_connect_where_the_server_accepts_it(accepts: bool) -> None:
    def script(parser: H2Connection, stream: int, _fields: Fields) -> None:
        parser.send_headers(stream, [(b":status", b"200")])

    upstream = H2Upstream(script, connect_protocol=accepts)
    upstream.on_data = lambda parser, stream, data: parser.send_data(stream, data.upper())
    async with h2_upstream(upstream):
        client = client_of(upstream)
        if not accepts:
            assert (await failure(client, TUNNEL)).outcome == Outcome.INVALID
            client.close()
            return
        sent: asyncio.Queue[bytes] = asyncio.Queue()

        async def frames() -> AsyncIterator[bytes]:
            while True:
                yield await sent.get()

        response = await client.request(TUNNEL, frames())
        assert (response.status, upstream.requests[0][b":protocol"]) == (200, b"websocket")
        for text in (b"abc", b"def"):
            sent.put_nowait(text)
            assert await anext(response.body) == text.upper()
        await response.aclose()
        client.close()
