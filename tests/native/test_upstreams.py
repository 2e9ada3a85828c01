"""Requests to HTTP/1.1 upstreams in C: what is sent, what comes back, connections that are used again.

Ends of every kind are in test_upstreams_ends.py; heads and bytes that misbehave in test_upstreams_hostile.py.
"""

from __future__ import annotations

import ctypes
import gc
import socket
import threading

import pytest

from tests.support.upstream_world import Upstream, answers, closes_after, forwarding, read_head
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Kind: a\r\n\r\nhello"


def test_a_request_and_its_response() -> None:
    heads: list[bytes] = []
    with Upstream(answers(HELLO, heads=heads)) as upstream, forwarding(upstream) as world:
        response = world.get("/a?b=c")
        assert (response.status, bytes(response.body)) == (200, b"hello")
        assert response.headers == {b"content-length": b"5", b"x-kind": b"a"}
        end = world.ended()
        assert (end.outcome, end.status, end.head_sent, end.response_bytes) == (Outcome.COMPLETE, 200, True, 5)
        assert 0 < end.connect_ns <= end.head_ns <= end.total_ns
    assert heads == [b"GET /a?b=c HTTP/1.1\r\nhost: velocity.test\r\n\r\n"]


def test_a_connection_is_used_again() -> None:
    with Upstream(answers(HELLO)) as upstream, forwarding(upstream) as world:
        for _ in range(3):
            assert world.get().status == 200
        assert [end.reused for end in world.ends] == [False, True, True]
        counts = world.counts()
        assert (counts.open, counts.idle, counts.running) == (1, 1, 0)
        assert (counts.connects, counts.requests, counts.reused) == (1, 3, 2)


def test_a_body_without_a_length_is_sent_in_chunks() -> None:
    heads: list[bytes] = []
    with Upstream(answers(HELLO, heads=heads)) as upstream, forwarding(upstream) as world:
        assert world.get("/", "POST", bytes(100_000)).status == 200
        assert world.ended().request_bytes == 100_000
        assert world.ended().body_sent
    assert b"\r\ntransfer-encoding: chunked\r\n" in heads[0]


def test_a_body_that_ends_with_the_connection() -> None:
    with Upstream(closes_after(b"HTTP/1.0 200 OK\r\n\r\nabc")) as upstream, forwarding(upstream) as world:
        assert bytes(world.get().body) == b"abc"
        assert world.ended().outcome == Outcome.COMPLETE
        assert world.counts().open == 0


class _Mallinfo(ctypes.Structure):
    """What mallinfo2(3) returns: ten sizes; the eighth is what is in use, the fifth what is mapped."""

    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def _bytes_in_use() -> int:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("no mallinfo2")
    libc.mallinfo2.restype = _Mallinfo
    gc.collect()
    sizes = libc.mallinfo2().sizes
    if sizes[7] == 0:
        pytest.skip("another allocator")
    return int(sizes[7] + sizes[4])


def test_an_idle_connection_takes_little_memory() -> None:
    count = 80
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        while read_head(connection):
            assert go.wait(8)
            connection.sendall(HELLO)

    with Upstream(script) as upstream, forwarding(upstream, settings=PoolSettings(max_idle_connections=count)) as world:
        client = world.client()
        responses = [client.get("/") for _ in range(count)]
        world.until(lambda: len(upstream.connections) == count)
        go.set()
        world.until(lambda: all(response.over for response in responses))
        world.until(lambda: world.counts().idle == count)
        before = _bytes_in_use()
        world.forwarding.use_addresses(world.pool, [])
        world.turn()
        assert world.counts().open == 0
        assert 500 < (before - _bytes_in_use()) / count < 8192
