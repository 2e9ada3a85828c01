"""A client that gives no credit for a while loses nothing; one that takes nothing for very long is disconnected.

RFC 9000 section 4.1: a sender that is blocked has nothing in flight, and the connection would end of idleness.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.engine_driver import StockClient, World, pattern
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
LENGTH = 1_000_000
PATHS = ("bytes", "file", "stream")


def paused(w: World, path: str, **windows: int) -> tuple[StockClient, Callable[[], None], object]:
    """A client that requests LENGTH bytes and gives no more than its initial credit, and a function that gives more."""
    client = w.ready(idle_timeout=600.0, **windows)
    quic = client.quic
    original = quic._write_connection_limits, quic._write_stream_limits
    quic._write_connection_limits = lambda builder, space: None  # type: ignore[method-assign]
    quic._write_stream_limits = lambda builder, space, stream: None  # type: ignore[method-assign]

    def go_on() -> None:
        quic._write_connection_limits, quic._write_stream_limits = original  # type: ignore[method-assign]
        quic.send_ping(1)

    response = client.get(f"/{path}/{LENGTH}")
    w.run(seconds=3)
    assert 0 < len(response.body) < LENGTH
    return client, go_on, response


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("blocked", ["connection", "stream"])
def test_a_reader_that_pauses_for_minutes_gets_the_whole_answer(world: Make, blocked: str, path: str) -> None:
    limits = Limits()
    w = world(limits=limits)
    small, large = 200_000, 1 << 24
    windows = (small, large) if blocked == "connection" else (large, small)
    client, go_on, response = paused(w, path, max_data=windows[0], max_stream_data=windows[1])
    w.run(seconds=limits.stall_timeout_s * 0.8)
    assert client.terminated is None
    assert w.app.closed == []
    go_on()
    w.run(lambda: response.over, seconds=30)  # type: ignore[attr-defined]
    assert len(response.body) == LENGTH  # type: ignore[attr-defined]
    assert path == "stream" or bytes(response.body) == pattern(LENGTH)  # type: ignore[attr-defined]
    assert w.counters()["stalled"] == 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pings", [False, True], ids=["silent", "with pings of its own"])
def test_a_stalled_reader_is_closed(world: Make, path: str, pings: bool) -> None:
    limits = Limits(stall_timeout_s=100.0)
    w = world(limits=limits)
    client, _, _ = paused(w, path, max_data=200_000, max_stream_data=200_000)
    for _ in range(12):
        w.run(seconds=10)
        if pings and client.terminated is None:
            client.quic.send_ping(2)
    w.run(seconds=20)
    assert client.terminated is not None
    assert client.terminated.error_code == 0x107
    assert w.counters()["stalled"] == 1
    assert w.engine.connections() == []


def test_a_slow_handler_is_not_a_stall(world: Make) -> None:
    """Nothing waits for the client then: it times out when idle, or its own PINGs keep it."""
    w = world(limits=Limits(stall_timeout_s=20.0))
    client = w.ready(idle_timeout=600.0)
    response = client.get("/hang")
    w.run(seconds=2)
    for _ in range(10):
        client.quic.send_ping(1)
        w.run(seconds=10)
    [request] = w.app.requests
    assert w.engine.respond(request.stream, 200, [], b"at last")
    w.run(lambda: response.over, seconds=5)
    assert bytes(response.body) == b"at last"
    assert w.counters()["stalled"] == 0


def test_a_slow_reader_is_not_a_stall(world: Make) -> None:
    w = world(limits=Limits(stall_timeout_s=20.0))
    client, go_on, response = paused(w, "file", max_data=200_000, max_stream_data=200_000)
    quic = client.quic
    writer = quic._write_connection_limits, quic._write_stream_limits
    for _ in range(12):
        go_on()
        w.run(seconds=0.03)
        quic._write_connection_limits, quic._write_stream_limits = writer  # type: ignore[method-assign]
        w.run(seconds=15)
    assert client.terminated is None
    assert w.counters()["stalled"] == 0
    go_on()
    w.run(lambda: response.over, seconds=30)  # type: ignore[attr-defined]
    assert len(response.body) == LENGTH  # type: ignore[attr-defined]


def test_an_idle_connection_is_not_kept_alive(world: Make) -> None:
    w = world(limits=Limits(idle_timeout_s=10.0))
    client = w.ready(idle_timeout=600.0)
    client.fetch("/bytes/100000")
    w.sent.clear()
    w.run(seconds=15)
    assert w.engine.connections() == []
    assert sum(len(train.data) for train in w.sent) < 200
