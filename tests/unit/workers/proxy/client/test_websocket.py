"""A WebSocket becomes an upgrade towards an HTTP/1.1 server: bytes pass both ways, and nothing else opens a tunnel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.support.scripted_upstream import CLOSE, ECHO, ScriptedUpstream, Step, pause, send
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings
from workers.proxy.client import AttemptFailed, Client
from workers.proxy.client.fields import RequestHead
from workers.proxy.client.websocket import accepted, upgrade_fields

SETTINGS = PoolSettings(connect_timeout_ns=5_000_000_000, response_timeout_ns=3_000_000_000)
TUNNEL = ForwardRequest(
    b"CONNECT", b"/chat?a", b"a.test", [(b"sec-websocket-protocol", b"chat"), (b"origin", b"b")], protocol=b"websocket"
)


class Accepting(ScriptedUpstream):
    """Gives the proof of RFC 6455 section 1.3, then does what the script says."""

    def _run(self, sock: object) -> None:
        head = sock.recv(65536)  # type: ignore[attr-defined]
        self.heads = [*getattr(self, "heads", []), head]
        key = re.search(rb"sec-websocket-key: (\S+)", head)
        assert key is not None
        _, proof = upgrade_fields(RequestHead(b"", b"", b"", [], -1, False, True), b"")
        proof = _proof(key[1])
        sock.sendall(  # type: ignore[attr-defined]
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + proof + b"\r\nSec-WebSocket-Protocol: chat\r\n\r\nearly"
        )
        for step in self.scripts(""):  # type: ignore[operator]
            self._step(sock, step, None, b"")  # type: ignore[arg-type]


def _proof(key: bytes) -> bytes:
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def test_the_proof_is_the_one_of_the_example_of_the_rfc() -> None:
    """RFC 6455 section 1.3."""
    fields, proof = upgrade_fields(RequestHead(b"", b"", b"", [], -1, False, True), b"the sample nonce")
    assert (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==") in fields
    assert proof == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    good = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", proof)]
    assert accepted(good, proof)
    for n in range(3):
        assert not accepted(good[:n] + good[n + 1 :], proof)
    assert not accepted([*good, (b"sec-websocket-accept", proof)], proof)
    assert not accepted([*good[:2], (b"sec-websocket-accept", proof.lower())], proof)


async def test_bytes_pass_both_ways_until_one_side_ends() -> None:
    to_send: asyncio.Queue[bytes] = asyncio.Queue()

    async def outgoing() -> AsyncIterator[bytes]:
        while data := await to_send.get():
            yield data

    with Accepting(lambda _: [ECHO]) as upstream:
        client = Client(SETTINGS)
        client.use_addresses([upstream.address])
        response = await client.request(replace(TUNNEL, max_body_bytes=10), outgoing())
        assert response.status == 200
        assert response.headers == [(b"sec-websocket-protocol", b"chat")]
        assert await anext(response.body) == b"early"
        for text in (b"one", b"x" * 1000):
            to_send.put_nowait(text)
            got = b""
            while len(got) < len(text):
                got += await anext(response.body)
            assert got == text
        to_send.put_nowait(b"")
        assert [chunk async for chunk in response.body] == []
        head = upstream.heads[0].split(b"\r\n")
        assert head[0] == b"GET /chat?a HTTP/1.1"
        assert {b"host: a.test", b"sec-websocket-version: 13", b"connection: upgrade", b"origin: b"} < set(head)
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", None),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", None),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            None,
        ),
    ],
)
async def test_only_an_upgrade_with_its_proof_opens_a_tunnel(answer: bytes, status: int | None) -> None:
    async def waits() -> AsyncIterator[bytes]:
        yield b"sent too early"
        await asyncio.sleep(9)

    with ScriptedUpstream(lambda _: [send(answer), pause(9)]) as upstream:
        client = Client(SETTINGS)
        client.use_addresses([upstream.address])
        if status is None:
            with pytest.raises(AttemptFailed) as caught:
                await client.request(TUNNEL, waits())
            assert caught.value.outcome == Outcome.INVALID
        else:
            response = await client.request(TUNNEL, waits())
            assert response.status == status
            assert b"".join([chunk async for chunk in response.body]) == b"no"
        client.close()
        await until(lambda: not client.counts().open, "the connection to be closed")


@pytest.mark.parametrize(("steps", "limit_ms"), [([CLOSE], 3000), ([pause(9)], 100)])
async def test_a_tunnel_ends_with_the_server_or_when_nothing_passes(steps: list[Step], limit_ms: int) -> None:
    async def waits() -> AsyncIterator[bytes]:
        await asyncio.sleep(9)
        yield b""

    with Accepting(lambda _: steps) as upstream:
        client = Client(replace(SETTINGS, idle_timeout_ns=limit_ms * 1_000_000))
        client.use_addresses([upstream.address])
        response = await client.request(TUNNEL, waits())
        assert await anext(response.body) == b"early"
        if steps == [CLOSE]:
            assert [chunk async for chunk in response.body] == []
        else:
            with pytest.raises(AttemptFailed) as caught:
                await anext(response.body)
            assert caught.value.outcome == Outcome.IDLE_TIMEOUT
        await until(lambda: not client.counts().open, "the connection to be closed")
        client.close()
