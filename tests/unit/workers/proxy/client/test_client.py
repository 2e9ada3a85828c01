"""A request reaches the upstream as RFC 9112 writes it, its answer comes back whole, and connections are used again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scripted_upstream import CLOSE, NEXT, READ_BODY, RESET, ScriptedUpstream, Step, pause, send
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings
from workers.proxy.client import AttemptFailed, Client, UpstreamResponse

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
SETTINGS = PoolSettings(
    connect_timeout_ns=5_000_000_000, response_timeout_ns=5_000_000_000, idle_timeout_ns=5_000_000_000
)
GET = ForwardRequest(b"GET", b"/hello", b"a.test", [])
POST = replace(GET, method=b"POST")


def client_of(upstream: ScriptedUpstream, settings: PoolSettings = SETTINGS) -> Client:
    client = Client(settings)
    client.use_addresses([upstream.address])
    return client


async def whole(response: UpstreamResponse) -> bytes:
    return b"".join([chunk async for chunk in response.body])


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def always(*steps: Step) -> ScriptedUpstream:
    return ScriptedUpstream(lambda _: steps)


async def until_idle(client: Client) -> None:
    await until(lambda: not client.counts().running, "the end of the request")


async def test_a_connection_is_used_again() -> None:
    with always(send(HELLO), NEXT) as upstream:
        client = client_of(upstream)
        for reused in (False, True, True):
            response = await client.request(GET)
            assert response.status == 200
            assert response.headers == [(b"content-length", b"5"), (b"x-a", b"b")]
            assert await whole(response) == b"hello"
            assert response.attempt.reused is reused
        assert (upstream.connections, client.counts().connects, client.counts().reused) == (1, 1, 2)
        client.close()


@pytest.mark.parametrize(
    ("body", "fields", "sent"),
    [
        (None, [], b""),
        (b"abc", [], b"abc"),
        (chunks(b"ab", b"", b"c"), [], b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        (chunks(b"ab", b"c"), [(b"content-length", b"3")], b"abc"),
        (chunks(), [], b"0\r\n\r\n"),
    ],
)
async def test_a_body_is_framed_once(
    body: bytes | AsyncIterator[bytes] | None, fields: Sequence[tuple[bytes, bytes]], sent: bytes
) -> None:
    with always(READ_BODY, send(HELLO), NEXT) as upstream:
        client = client_of(upstream)
        assert await whole(await client.request(replace(POST, fields=fields), body)) == b"hello"
        await until_idle(client)
        assert client.counts().idle == 1
        assert upstream.requests[0].body == sent
        framing = [upstream.requests[0].get(name) is None for name in (b"content-length", b"transfer-encoding")]
        assert sum(framing) == 1
        client.close()


async def test_a_get_whose_end_comes_later_has_no_framing() -> None:
    with always(send(HELLO), NEXT) as upstream:
        client = client_of(upstream)
        assert await whole(await client.request(GET, chunks())) == b"hello"
        assert upstream.requests[0].head == b"GET /hello HTTP/1.1\r\nhost: a.test"
        client.close()


async def test_trailers_pass_both_ways() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nHost: b\r\n\r\n"
    with always(READ_BODY, send(answer), NEXT) as upstream:
        client = client_of(upstream)
        response = await client.request(POST, chunks(b"a"), trailers=lambda: [(b"x-end", b"1")])
        assert await whole(response) == b"hi"
        assert response.trailers == [(b"x-sum", b"7")]
        assert upstream.requests[0].body == b"1\r\na\r\n0\r\nx-end: 1\r\n\r\n"
        client.close()


async def test_informational_responses_are_reported_and_the_body_waits_for_100() -> None:
    hints = send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    seen: list[tuple[int, object]] = []

    async def body() -> AsyncIterator[bytes]:
        assert [status for status, _ in seen] == [103, 100]
        yield b"abc"

    with always(hints, READ_BODY, send(HELLO), NEXT) as upstream:
        client = client_of(upstream)
        request = replace(POST, fields=[(b"expect", b"100-continue"), (b"content-length", b"3")])
        response = await client.request(
            request, body(), on_informational=lambda status, fields: seen.append((status, fields))
        )
        assert await whole(response) == b"hello"
        assert seen[0] == (103, [(b"link", b"</a>")])
        assert upstream.requests[0].body == b"abc"
        client.close()


async def test_a_refusal_in_place_of_100_leaves_the_body_unread() -> None:
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    with always(send(refusal), CLOSE) as upstream:
        client = client_of(upstream)
        request = replace(POST, fields=[(b"expect", b"100-continue")])
        response = await client.request(request, chunks(b"abc"))
        assert (response.status, response.attempt.body_sent) == (413, False)
        assert await whole(response) == b""
        client.close()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    ],
)
async def test_a_response_without_content_ends_with_its_head(method: bytes, answer: bytes) -> None:
    with always(send(answer), NEXT) as upstream:
        client = client_of(upstream)
        for _ in range(2):
            assert await whole(await client.request(replace(GET, method=method))) == b""
        assert upstream.connections == 1
        client.close()


async def test_a_body_that_ends_with_the_connection_is_whole_and_the_connection_is_not_used_again() -> None:
    with always(send(b"HTTP/1.0 200 OK\r\n\r\nall of it"), CLOSE) as upstream:
        client = client_of(upstream)
        for _ in range(2):
            assert await whole(await client.request(GET)) == b"all of it"
        assert upstream.connections == 2
        client.close()


async def test_a_kept_connection_that_the_server_closed_is_not_used() -> None:
    with always(send(HELLO), CLOSE) as upstream:
        client = client_of(upstream)
        assert await whole(await client.request(GET)) == b"hello"
        await until(lambda: not client.counts().open, "the connection to be closed")
        assert await whole(await client.request(GET)) == b"hello"
        assert client.counts().reused == 0
        client.close()


async def test_a_reused_connection_that_ends_says_so() -> None:
    scripts = {"hello": [send(HELLO), NEXT], "gone": [RESET]}
    with ScriptedUpstream(scripts) as upstream:
        client = client_of(upstream)
        await whole(await client.request(GET))
        with pytest.raises(AttemptFailed) as caught:
            await client.request(replace(POST, target=b"/gone"), chunks(b"x"))
        assert (caught.value.outcome, caught.value.reused) == (Outcome.CLOSED_EARLY, True)
        client.close()


@pytest.mark.parametrize(
    ("steps", "method", "outcome", "limits_ms"),
    [
        ([pause(9)], b"GET", Outcome.RESPONSE_TIMEOUT, (50, 9000)),
        ([send(b"HTTP/1.1 200"), pause(9)], b"GET", Outcome.RESPONSE_TIMEOUT, (50, 9000)),
        ([send(HELLO[:-1]), pause(9)], b"GET", Outcome.IDLE_TIMEOUT, (9000, 100)),
        ([pause(9)], b"POST", Outcome.REQUEST_TIMEOUT, (9000, 100)),
    ],
)
async def test_each_wait_has_its_limit(
    steps: list[Step], method: bytes, outcome: Outcome, limits_ms: tuple[int, int]
) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(9)

    response_ms, idle_ms = limits_ms
    short = replace(SETTINGS, response_timeout_ns=response_ms * 1_000_000, idle_timeout_ns=idle_ms * 1_000_000)
    with always(*steps) as upstream:
        client = client_of(upstream, short)
        with pytest.raises(AttemptFailed) as caught:
            async with asyncio.timeout(5):
                await whole(await client.request(replace(GET, method=method), silent() if method == b"POST" else None))
        assert caught.value.outcome == outcome
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()


async def test_no_connection_is_told_apart_from_no_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = Client(SETTINGS)
        client.use_addresses([taken.getsockname()])
        with pytest.raises(AttemptFailed) as caught:
            await client.request(GET)
        assert (caught.value.outcome, caught.value.reason) == (Outcome.CONNECT_FAILED, "connection refused")
    with always(pause(9)) as upstream:
        one = replace(SETTINGS, max_connections=1, connect_timeout_ns=50_000_000)
        client = client_of(upstream, one)
        first = asyncio.ensure_future(client.request(GET))
        await asyncio.sleep(0)
        with pytest.raises(AttemptFailed) as caught:
            await client.request(GET)
        assert caught.value.outcome == Outcome.CONNECT_TIMEOUT
        first.cancel()
        client.close()


async def test_requests_above_the_number_of_connections_wait_for_one() -> None:
    with always(send(HELLO), NEXT) as upstream:
        client = client_of(upstream, replace(SETTINGS, max_connections=2))

        async def one() -> bytes:
            return await whole(await client.request(GET))

        assert await asyncio.gather(*(one() for _ in range(20))) == [b"hello"] * 20
        assert upstream.connections == 2
        client.close()


@pytest.mark.parametrize("length", [None, 6])
async def test_a_body_above_the_limit_is_not_sent_whole(length: int | None) -> None:
    fields = [] if length is None else [(b"content-length", b"%d" % length)]
    with always(READ_BODY) as upstream:
        client = client_of(upstream)
        with pytest.raises(AttemptFailed) as caught:
            await client.request(replace(POST, fields=fields, max_body_bytes=5), chunks(b"abc", b"def"))
        assert caught.value.outcome == Outcome.REQUEST_TOO_LARGE
        await until(lambda: upstream.connections == (length is None), "the connection to be counted")
        client.close()


async def test_cancellation_closes_the_connection() -> None:
    with always(pause(9)) as upstream:
        client = client_of(upstream)
        task = asyncio.ensure_future(client.request(GET))
        await until(lambda: upstream.requests, "the request")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()


async def test_a_response_that_is_given_up_closes_the_connection() -> None:
    with always(send(HELLO[:-1]), pause(9)) as upstream:
        client = client_of(upstream)
        response = await client.request(GET)
        del response
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()


async def test_the_first_address_that_answers_is_used(tmp_path: Path) -> None:
    with (
        socket.socket() as refuses,
        ScriptedUpstream(lambda _: [send(HELLO), NEXT], path=str(tmp_path / "s")) as upstream,
    ):
        refuses.bind(("127.0.0.1", 0))
        client = Client(SETTINGS)
        client.use_addresses([refuses.getsockname(), upstream.address])
        response = await client.request(GET)
        assert response.attempt.address == str(tmp_path / "s")
        assert await whole(response) == b"hello"
        client.close()


async def test_connections_to_former_addresses_are_closed() -> None:
    with always(send(HELLO), NEXT) as before, always(send(HELLO), NEXT) as after:
        client = client_of(before)
        await whole(await client.request(GET))
        client.use_addresses([after.address])
        await whole(await client.request(GET))
        assert (before.connections, after.connections) == (1, 1)
        client.close()


async def test_a_client_that_is_behind_stops_the_upstream() -> None:
    n_bytes = 64 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n_bytes
    with always(send(head), ("flood", b"x" * 65536, n_bytes), NEXT) as upstream:
        client = client_of(upstream)
        response = await client.request(GET)
        await until(lambda: response.attempt.response_bytes >= 65536, "the first bytes")
        before = -1
        while before != response.attempt.response_bytes:
            before = response.attempt.response_bytes
            await asyncio.sleep(0.05)
        assert before < 1_000_000
        assert len(await whole(response)) == n_bytes
        client.close()


async def test_an_upstream_that_is_behind_stops_the_client() -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 65536

    with always(pause(9)) as upstream:
        client = client_of(upstream, replace(SETTINGS, idle_timeout_ns=300_000_000))
        with pytest.raises(AttemptFailed) as caught:
            await client.request(replace(POST, max_body_bytes=2**40), endless())
        assert caught.value.outcome == Outcome.RESPONSE_TIMEOUT
        assert asked < 200
        client.close()


async def test_an_address_that_is_silent_costs_a_quarter_of_a_second() -> None:
    """RFC 8305 section 5: the next one is tried beside it."""
    with socket.socket() as silent, ExitStack() as queue, always(send(HELLO), NEXT) as upstream:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):  # fill its queue: the kernel drops further SYNs
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        client = Client(SETTINGS)
        client.use_addresses([silent.getsockname(), upstream.address])
        response = await client.request(GET)
        assert response.attempt.address == upstream.address
        assert 200_000_000 < response.attempt.connect_ns < 3_000_000_000
        await whole(response)
        client.close()


async def test_an_answer_to_an_upload_that_nobody_reads_frees_the_connection() -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65536

    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    with always(pause(0.3), send(refusal), pause(60)) as upstream:
        client = client_of(upstream)
        response = await client.request(replace(POST, max_body_bytes=2**40), much())
        assert (response.status, await whole(response)) == (403, b"no")
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()
