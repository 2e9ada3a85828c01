"""Whatever bytes an upstream sends, and however they are split, a request ends once, and in the same way."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection as Server
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.misbehaving_upstream import CHUNKED, HINTED, INVALID, LENGTH, TOLERATED
from velocity_edge.http.upstreams import PoolSettings
from workers.proxy.client.answers import Attempt, AttemptFailed
from workers.proxy.client.exchange import Exchange
from workers.proxy.client.fields import RequestHead
from workers.proxy.client.h1 import H1Connection
from workers.proxy.client.h2 import H2Connection

POOL = PoolSettings()
HEAD = RequestHead(b"GET", b"/", b"a.test", [], None, False, False)


class Wire(asyncio.Transport):
    """A transport to nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False
        self.reading = True

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


def _h2_responses() -> list[bytes]:
    seeds = []
    for kind in range(4):
        client, server = Server(H2Configuration(client_side=True)), Server(H2Configuration(client_side=False))
        client.initiate_connection()
        client.send_headers(
            1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")], end_stream=True
        )
        server.initiate_connection()
        server.receive_data(client.data_to_send())
        if kind:
            server.send_headers(1, [(":status", "103"), ("link", "</a>")])
        server.send_headers(1, [(":status", "200"), ("x", "y" * 50)])
        server.send_data(1, b"hello" * 20)
        if kind > 1:
            server.send_headers(1, [("x-sum", "1")], end_stream=True)
        else:
            server.end_stream(1)
        if kind > 2:
            server.ping(b"12345678")
            server.close_connection()
        seeds.append(server.data_to_send())
    return seeds


H1_SEEDS = [LENGTH, CHUNKED, HINTED, *(one.steps[0][1] for one in (*INVALID, *TOLERATED) if one.steps[0][0] == "send")]
H2_SEEDS = _h2_responses()


async def outcome(version: str, pieces: list[bytes]) -> tuple[Any, ...]:
    """What a request ends in when these pieces arrive, and then the end of the connection."""
    connection: Any = (H1Connection if version == "h1" else H2Connection)(POOL, "", lambda _: None)
    wire = Wire()
    connection.connection_made(wire)
    exchange = Exchange(POOL, connection, Attempt(), tunnel=False, is_head=False)
    if version == "h2":
        connection.data_received(b"\0\0\0\4\0\0\0\0\0")
    connection.begin(HEAD, exchange)
    for piece in pieces:
        if wire.closing:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    if not wire.closing:
        connection.eof_received()
    connection.connection_lost(None)
    assert exchange.over
    body, failure = b"", None
    try:
        while (chunk := await exchange.read()) is not None:
            body += chunk
    except AttemptFailed as error:
        failure = error.outcome
    return exchange.status, exchange.fields, body, exchange.trailers, failure


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 8))
        data[at : at + cut] = draw(st.binary(max_size=8))
    return bytes(data)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@settings(max_examples=150, deadline=None)
@given(data=mutated(H1_SEEDS), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_an_http1_response_means_the_same_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    whole, pieces = asyncio.run(outcome("h1", [data])), asyncio.run(outcome("h1", split(data, cuts)))
    assert whole == pieces


@settings(max_examples=150, deadline=None)
@given(data=mutated(H2_SEEDS), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_an_http2_response_means_the_same_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    whole, pieces = asyncio.run(outcome("h2", [data])), asyncio.run(outcome("h2", split(data, cuts)))
    assert whole == pieces
