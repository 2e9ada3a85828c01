"""How attempts end: each `Outcome`, exactly once, with what policy needs to know to try again."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.support.upstream_world import (
    Upstream,
    UpstreamWorld,
    answers,
    closes_after,
    edited,
    forwarding,
    read_exactly,
    read_head,
)
from velocity_edge.http.requests import EventKind, Outcome
from velocity_edge.http.upstreams import PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
SECOND_NS = 1_000_000_000
SHORT = PoolSettings(
    connect_timeout_ns=2 * SECOND_NS,
    response_timeout_ns=3 * SECOND_NS,
    idle_timeout_ns=4 * SECOND_NS,
    keepalive_timeout_ns=5 * SECOND_NS,
)


def silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def test_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        world = UpstreamWorld([unused.getsockname(), str(tmp_path / "nothing")])
        assert world.get().status == 502
    end = world.ended()
    assert (end.outcome, end.body_sent, end.reused) == (Outcome.CONNECT_FAILED, False, False)
    assert end.reason == "no such file or directory"
    assert world.counts().connects_failed == 1
    assert world.counts().open == 0


def test_no_address() -> None:
    world = UpstreamWorld([])
    assert world.get().status == 502
    assert (world.ended().outcome, world.ended().reason) == (Outcome.CONNECT_FAILED, "no address is known")


def test_a_full_pool() -> None:
    with Upstream(silent) as upstream, forwarding(upstream, settings=PoolSettings(max_connections=1)) as world:
        world.client().get("/first")
        world.until(lambda: world.counts().running == 1)
        assert world.get("/second").status == 502
        assert (world.ended().outcome, world.ended().reason) == (Outcome.CONNECT_FAILED, "the pool is full")


def test_a_connection_that_never_comes() -> None:
    # A listener whose queue is full drops what comes, as a host behind a bad firewall does.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(3)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        world = UpstreamWorld([full.getsockname()], SHORT)
        response = world.client().get("/")
        world.until(lambda: world.counts().running == 1)
        world.pass_time(2.1)
        assert world.ended().outcome == Outcome.CONNECT_TIMEOUT
        world.until(lambda: response.over)
        assert world.counts().open == 0
        for one in crowd:
            one.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("head", [b"", b"HT", b"HTTP/1.1 200 OK\r\nx: "])
def test_the_connection_ends_before_the_head(head: bytes, reset: bool) -> None:
    with Upstream(closes_after(head, reset=reset)) as upstream, forwarding(upstream) as world:
        assert world.get().status == 502
        end = world.ended()
        assert (end.outcome, end.status, end.head_sent) == (Outcome.CLOSED_EARLY, 0, False)
        assert not end.reused


def test_a_kept_connection_that_the_server_closes_under_the_request() -> None:
    closing = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(HELLO)
        read_head(connection)  # and nothing: as if it had closed when this was on its way
        closing.set()

    with Upstream(script) as upstream, forwarding(upstream) as world:
        assert world.get().status == 200
        client = world.client()
        response = client.get("/")
        world.until(lambda: world.counts().reused == 1)
        assert closing.wait(5)
        upstream.connections[0].shutdown(socket.SHUT_RDWR)
        world.until(lambda: response.over)
        end = world.ends[-1]
        assert (end.outcome, end.reused, end.body_sent) == (Outcome.CLOSED_EARLY, True, False)


def test_body_bytes_that_were_not_sent_go_to_the_next_attempt() -> None:
    """The first server cannot be reached: the second gets the whole body, also bytes that Python had."""
    with Upstream(answers(HELLO)) as upstream, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        world = UpstreamWorld([unused.getsockname()])
        world.answer_failures = False
        second = world.forwarding.open(PoolSettings())
        world.forwarding.use_addresses(second, [upstream.address])
        response = world.client().request("POST", "/", body=bytes(90_000))
        world.until(lambda: len(world.ends) == 1)
        assert world.ends[0].outcome == Outcome.CONNECT_FAILED
        assert not world.ends[0].body_sent
        request = world.make_request(world.app.requests[0])
        assert world.forwarding.forward(second, world.ends[0].stream, request)
        world.until(lambda: response.over)
        assert response.status == 200
        assert (world.ends[1].outcome, world.ends[1].request_bytes) == (Outcome.COMPLETE, 90_000)


def test_no_response_in_time() -> None:
    with Upstream(silent) as upstream, forwarding(upstream, settings=SHORT) as world:
        response = world.client().get("/")
        world.until(lambda: upstream.connections != [] and world.counts().running == 1)
        world.pass_time(2.0)  # of 3.0; real time passes as well
        assert world.ends == []
        world.pass_time(1.2)
        assert (world.ended().outcome, world.ended().reason) == (Outcome.RESPONSE_TIMEOUT, "no response in time")
        world.until(lambda: response.status == 502)
        assert world.counts().open == 0


def test_no_body_in_time() -> None:
    with Upstream(silent) as upstream, forwarding(upstream, settings=SHORT) as world:
        response = world.client().request("POST", "/", body=b"begin", end=False)
        world.until(lambda: world.counts().running == 1 and upstream.connections != [])
        world.pass_time(4.5)
        end = world.ended()
        assert (end.outcome, end.body_sent, end.head_sent) == (Outcome.REQUEST_TIMEOUT, True, False)
        world.until(lambda: response.status == 502)


@pytest.mark.parametrize("length", [None, 3000])
def test_a_body_that_is_too_large(length: int | None) -> None:
    with (
        Upstream(silent) as upstream,
        forwarding(upstream, request=edited(max_body_bytes=2000)) as world,
    ):
        fields = {} if length is None else {"content_length": str(length)}
        assert world.get("/", "POST", bytes(3000), **fields).status == 502
        assert world.ended().outcome == Outcome.REQUEST_TOO_LARGE
        assert world.ended().request_bytes <= (2000 if length is None else 0)
        assert length is None or upstream.connections == []
        assert world.counts().open == 0


def test_the_response_is_idle_for_too_long() -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(HELLO[:-2])
        silent(connection)

    with Upstream(script) as upstream, forwarding(upstream, settings=SHORT) as world:
        response = world.client().get("/")
        world.until(lambda: len(response.body) == 3)
        world.pass_time(3.5)
        assert world.ends == []
        world.pass_time(1.0)
        end = world.ended()
        assert (end.outcome, end.head_sent, end.status) == (Outcome.IDLE_TIMEOUT, True, 200)
        world.until(lambda: response.over)
        assert response.reset is not None


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "response",
    [
        HELLO[:-1],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-trailer: 1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5z",
    ],
)
def test_a_response_that_is_cut(response: bytes, reset: bool) -> None:
    with Upstream(closes_after(response, reset=reset)) as upstream, forwarding(upstream) as world:
        got = world.get()
        end = world.ended()
        if reset and not end.head_sent:
            assert end.outcome == Outcome.CLOSED_EARLY  # the reset has overtaken the bytes
            return
        assert got.reset is not None
        assert (end.outcome, end.head_sent, end.status) == (Outcome.TRUNCATED, True, 200)


def test_the_client_resets_its_stream() -> None:
    with Upstream(silent) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.get("/")
        world.until(lambda: world.counts().running == 1 and upstream.connections != [])
        client.quic.reset_stream(response.stream_id, 0x10C)
        client.quic.stop_stream(response.stream_id, 0x10C)
        world.until(lambda: world.ends != [])
        kinds = [event.kind for event in world.order]
        assert kinds.index(EventKind.UPSTREAM_ENDED) < kinds.index(EventKind.STREAM_CLOSED)
        assert world.ended().outcome == Outcome.CLIENT_GONE
        assert world.counts().open == 0
        while upstream.connections[0].recv(65_536):
            pass  # what its script has not read; then the end


@pytest.mark.parametrize("connecting", [False, True])
def test_the_client_closes_its_connection(connecting: bool) -> None:
    with Upstream(silent) as upstream, forwarding(upstream) as world:
        client = world.client()
        client.get("/")
        world.until(lambda: world.counts().running == 1 and (connecting or upstream.connections != []))
        client.close()
        world.until(lambda: world.ends != [])
        assert world.ended().outcome == Outcome.CLIENT_GONE
        kinds = [event.kind for event in world.order]
        assert kinds.index(EventKind.UPSTREAM_ENDED) < kinds.index(EventKind.STREAM_CLOSED)
        assert (world.counts().open, world.counts().running) == (0, 0)


@pytest.mark.parametrize("begun", [False, True])
def test_cancelled(begun: bool) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        if begun:
            connection.sendall(HELLO[:-2])
        silent(connection)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        response = world.client().get("/")
        world.until(lambda: upstream.connections != [] and world.counts().running == 1)
        world.until(lambda: not begun or len(response.body) == 3)
        stream = world.app.requests[0].stream
        world.forwarding.cancel(stream)
        world.forwarding.cancel(stream)
        world.until(lambda: world.ends != [])
        assert (world.ended().outcome, world.ended().head_sent) == (Outcome.CANCELLED, begun)
        world.until(lambda: response.over)
        assert (response.reset is not None) == begun


def test_forward_to_what_is_gone() -> None:
    with Upstream(answers(HELLO)) as upstream, forwarding(upstream) as world:
        world.get()
        request = world.app.requests[0]
        other = world.forwarding.open(PoolSettings())
        world.forwarding.close(other)
        assert not world.forwarding.forward(world.pool, request.stream, world.make_request(request))
        assert not world.forwarding.forward(other, request.stream, world.make_request(request))
        world.forwarding.cancel(request.stream)
        world.forwarding.feed(request.stream, b"late", False)
        with pytest.raises(KeyError):
            world.forwarding.counts(other)


def test_a_pool_closes_with_its_last_request() -> None:
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        assert go.wait(5)
        connection.sendall(HELLO)
        connection.recv(1)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        response = world.client().get("/")
        world.until(lambda: upstream.connections != [])
        world.forwarding.close(world.pool)
        go.set()
        world.until(lambda: response.over)
        assert response.status == 200
        assert world.ended().outcome == Outcome.COMPLETE
        assert upstream.connections[0].recv(1) == b""


def test_idle_connections_are_closed_when_their_time_is_over_or_the_server_speaks() -> None:
    with Upstream(answers(HELLO)) as upstream, forwarding(upstream, settings=SHORT) as world:
        world.get()
        assert world.counts().idle == 1
        world.pass_time(5.1)
        assert world.counts().open == 0
        world.get()
        upstream.connections[-1].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        world.until(lambda: world.counts().open == 0)
        world.get()
        upstream.connections[-1].shutdown(socket.SHUT_WR)
        world.until(lambda: world.counts().open == 0)
        assert all(end.outcome == Outcome.COMPLETE for end in world.ends)


def test_other_addresses_close_idle_connections() -> None:
    with Upstream(answers(HELLO)) as one, Upstream(answers(HELLO)) as two, forwarding(one) as world:
        world.get()
        world.forwarding.use_addresses(world.pool, [two.address, one.address])
        assert world.counts().idle == 1
        world.forwarding.use_addresses(world.pool, [two.address])
        assert world.counts().open == 0
        assert world.get().status == 200
        assert len(two.connections) == 1


def test_limits_of_connections() -> None:
    settings = PoolSettings(max_requests_per_connection=2, max_idle_connections=1)
    with Upstream(answers(HELLO)) as upstream, forwarding(upstream, settings=settings) as world:
        for _ in range(4):
            world.get()
        assert len(upstream.connections) == 2


def test_an_engine_that_ends_frees_everything() -> None:
    with Upstream(silent) as upstream:
        world = UpstreamWorld([upstream.address])
        world.client().request("POST", "/", body=b"x", end=False)
        world.until(lambda: upstream.connections != [])
        connection = upstream.connections[0]
        fd = world.forwarding.fileno()
        assert fd > 0
        del world
        import gc

        gc.collect()
        assert read_exactly(connection, 0) == b""


def test_half_of_the_addresses_are_dead() -> None:
    with Upstream(answers(HELLO)) as upstream, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        world = UpstreamWorld([unused.getsockname(), upstream.address])
        assert world.get().status == 200
        assert world.counts().connects == 1


def test_happy_eyeballs() -> None:
    """The first address does not answer: the second one is tried beside it after 250 ms (RFC 8305)."""
    with Upstream(answers(HELLO)) as upstream, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(3)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        world = UpstreamWorld([full.getsockname(), upstream.address])
        response = world.client().get("/")
        world.until(lambda: world.counts().running == 1)
        world.pass_time(0.2)
        assert upstream.connections == []
        world.pass_time(0.1)
        world.until(lambda: response.over)
        assert response.status == 200
        assert world.counts().open == 1
        for one in crowd:
            one.close()
