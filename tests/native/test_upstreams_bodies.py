"""Bodies between clients and upstreams: both ways at once, back-pressure with counted bytes, informational responses,
trailers, and what has no body.
"""

from __future__ import annotations

import hashlib
import select
import socket
import threading
from pathlib import Path

import pytest

from tests.support.engine_driver import pattern
from tests.support.upstream_world import (
    Upstream,
    answers,
    closes_after,
    edited,
    forwarding,
    read_body,
    read_exactly,
    read_head,
)
from velocity_edge.http.requests import Outcome
from velocity_edge.quic.limits import Limits

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
LARGE = 3_000_000


def test_large_bodies_both_ways() -> None:
    def script(connection: socket.socket) -> None:
        while head := read_head(connection):
            body = read_body(connection, head)
            connection.sendall(OK + b"content-length: %d\r\n\r\n" % len(body) + body)

    size = 800_000
    body = pattern(size)
    with Upstream(script) as upstream, forwarding(upstream) as world:
        for fields in ({}, {"content_length": str(size)}):
            response = world.get("/", "POST", body, **fields)
            assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()
        assert [(end.request_bytes, end.response_bytes) for end in world.ends] == [(size, size)] * 2


def test_a_client_that_is_behind_stops_the_reading() -> None:
    sent = 0
    stuck = threading.Event()

    def script(connection: socket.socket) -> None:
        nonlocal sent
        read_head(connection)
        connection.setblocking(False)
        data = OK + b"content-length: %d\r\n\r\n" % (40 * LARGE) + pattern(LARGE) * 40
        while sent < len(data):
            if not select.select([], [connection], [], 0.2)[1]:
                stuck.set()
                select.select([], [connection], [], 30)
            sent += connection.send(data[sent : sent + 65_536])

    with Upstream(script) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.get("/")
        world.until(lambda: len(response.body) > 0)
        client.paused = True
        world.until(stuck.is_set)
        before = sent
        world.pass_time(1)
        # What the kernel takes, what may be unacknowledged, and the high mark.
        assert before < 12_000_000
        assert sent - before < 1_000_000
        assert world.ends == []
        assert world.engine.unacked_bytes < 2_000_000  # type: ignore[attr-defined]
        client.paused = False
        world.until(lambda: len(response.body) > before + 2 * LARGE)
        assert bytes(response.body[:LARGE]) == pattern(LARGE)
        client.close()
        world.until(lambda: world.ends != [])


def test_an_upstream_that_is_behind_stops_the_client(tmp_path: Path) -> None:
    """On a unix socket, because the kernel takes little for it."""
    go = threading.Event()
    digest = hashlib.sha256()

    def script(connection: socket.socket) -> None:
        head = read_head(connection)
        assert go.wait(8)
        digest.update(read_body(connection, head))
        connection.sendall(HELLO)

    body = pattern(LARGE)
    with Upstream(script, tmp_path / "socket") as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.request("POST", "/", body=body)
        stream = client.quic._streams[response.stream_id]
        world.until(lambda: world.counts().running == 1)
        before = -1
        while before != stream.max_stream_data_remote:
            before = stream.max_stream_data_remote
            for _ in range(10):
                world.turn()
                world.run(seconds=0.05)
        assert before < LARGE // 3  # the window, and what the socket takes
        go.set()
        world.until(lambda: response.over)
        assert response.status == 200
        assert digest.digest() == hashlib.sha256(body).digest()
        assert world.ended().request_bytes == len(body)


def test_an_early_response_is_passed_on_and_the_rest_of_the_body_dropped() -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        read_exactly(connection, 1)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass

    with Upstream(script) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.request("POST", "/", body=bytes(LARGE), end=False)
        world.until(lambda: response.over)
        assert (response.status, bytes(response.body)) == (413, b"no")
        assert world.ended().outcome == Outcome.COMPLETE
        assert world.ended().status == 413
        assert world.counts().open == 0
        # The client may send on without filling anything, and others are served.
        world.run(seconds=1)
        assert world.ready().world is world


@pytest.mark.parametrize("reset", [False, True])
def test_a_response_that_was_sent_before_the_upload_broke(reset: bool) -> None:
    """The upstream answers and closes without reading: the answer counts, if the reset has not overtaken it."""
    with (
        Upstream(closes_after(b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno", reset=reset)) as upstream,
        forwarding(upstream) as world,
    ):
        response = world.get("/", "POST", bytes(200_000))
        assert response.status in ((401, 502) if reset else (401,))


def test_both_ways_at_once() -> None:
    """A response that begins before the request ends, and answers piece by piece."""

    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(OK + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            assert read_exactly(connection, 9) == b"4\r\nping\r\n"
            connection.sendall(b"4\r\npong\r\n")
        assert read_exactly(connection, 5) == b"0\r\n\r\n"
        connection.sendall(b"0\r\n\r\n")
        connection.recv(1)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.request("POST", "/", end=False, body=b"ping")
        for count in (1, 2, 3):
            world.until(lambda count=count: response.body == b"pong" * count)  # type: ignore[misc]
            client.http.send_data(response.stream_id, b"ping" if count < 3 else b"", end_stream=count == 3)  # type: ignore[union-attr]
        world.until(lambda: response.done)
        assert world.ended().outcome == Outcome.COMPLETE
        assert world.counts().idle == 1


def test_each_event_of_a_stream_arrives_at_once() -> None:
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(OK + b"content-type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert go.wait(5)
        connection.sendall(b"data: 2\n\n")
        connection.shutdown(socket.SHUT_WR)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        response = world.client().get("/")
        world.until(lambda: bytes(response.body) == b"data: 1\n\n")
        go.set()
        world.until(lambda: response.done)
        assert bytes(response.body) == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("HEAD", OK + b"content-length: 500\r\n\r\n"),
        ("HEAD", OK + b"transfer-encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\netag: a\r\ncontent-length: 500\r\n\r\n"),
        ("GET", OK + b"content-length: 0\r\n\r\n"),
        ("GET", OK + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
)
def test_responses_without_a_body(method: str, response: bytes) -> None:
    status = int(response.split()[1])
    with Upstream(answers(response)) as upstream, forwarding(upstream) as world:
        for count in (1, 2):
            client = world.client()
            # The client takes a length for a promise: not all of these are responses that it likes.
            got = client.request(method, "/")
            world.until(lambda count=count: len(world.ends) == count)  # type: ignore[misc]
            assert (world.ends[-1].status, world.ends[-1].response_bytes, bytes(got.body)) == (status, 0, b"")
        assert [end.reused for end in world.ends] == [False, True]


@pytest.mark.parametrize(
    ("method", "line"),
    [("GET", b""), ("DELETE", b""), ("POST", b"content-length: 0\r\n"), ("PUT", b"content-length: 0\r\n")],
)
def test_requests_without_a_body(method: str, line: bytes) -> None:
    heads: list[bytes] = []
    with Upstream(answers(HELLO, heads=heads)) as upstream, forwarding(upstream) as world:
        world.get("/", method)
    assert heads == [method.encode() + b" / HTTP/1.1\r\nhost: velocity.test\r\n" + line + b"\r\n"]


def test_early_hints_and_continue_reach_the_client() -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        head = read_head(connection)
        seen.append(head)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        seen.append(read_body(connection, head))
        connection.sendall(HELLO)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.request("POST", "/", headers=[(b"expect", b"100-continue")], end=False)
        world.until(lambda: response.interim == [103, 100])
        client.http.send_data(response.stream_id, b"body", end_stream=True)  # type: ignore[union-attr]
        world.until(lambda: response.done)
        assert response.status == 200
    assert b"\r\nexpect: 100-continue\r\n" in seen[0]
    assert seen[1] == b"body"


def test_trailers_of_the_response() -> None:
    chunked = OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nGrpc-Status: 0\r\nconnection: x\r\n\r\n"
    with Upstream(answers(chunked)) as upstream, forwarding(upstream) as world:
        for _ in range(2):
            response = world.get()
            assert bytes(response.body) == b"hi"
            assert response.trailers == [(b"grpc-status", b"0")]
        assert world.ends[1].reused


def test_trailers_of_the_request() -> None:
    raw: list[bytes] = []

    def script(connection: socket.socket) -> None:
        read_head(connection)
        raw.append(read_exactly(connection, len(b"2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n")))
        connection.sendall(HELLO)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        client = world.client()
        response = client.request("POST", "/", body=b"hi", end=False)
        world.until(lambda: upstream.connections != [])
        client.http.send_headers(response.stream_id, [(b"x-sum", b"1")], end_stream=True)  # type: ignore[union-attr]
        world.until(lambda: response.done)
    assert raw == [b"2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"]


@pytest.mark.parametrize("abstract", [False, True])
def test_unix_sockets(tmp_path: Path, abstract: bool) -> None:
    with Upstream(answers(HELLO), path=tmp_path / "socket") as upstream:
        if abstract:
            upstream.listener.shutdown(socket.SHUT_RDWR)
            upstream.listener.close()
            upstream.listener = socket.socket(socket.AF_UNIX)
            name = f"velocity-test-{tmp_path}"[:90]
            upstream.listener.bind("\0" + name)
            upstream.listener.listen()
            upstream._threads.append(threading.Thread(target=upstream._accept, daemon=True))
            upstream._threads[-1].start()
            upstream.address = "@" + name
        with forwarding(upstream) as world:
            assert bytes(world.get().body) == b"hello"
            assert bytes(world.get().body) == b"hello"
            assert world.ends[1].reused


def test_ipv6() -> None:
    with Upstream(answers(HELLO), host="::1") as upstream, forwarding(upstream) as world:
        assert world.get().status == 200


def test_many_at_once() -> None:
    with (
        Upstream(answers(HELLO)) as upstream,
        forwarding(upstream, limits=Limits(), request=edited(add=[(b"x", b"y")])) as world,
    ):
        client = world.client()
        responses = [client.get(f"/{i}") for i in range(60)]
        world.until(lambda: all(response.over for response in responses))
        assert {response.status for response in responses} == {200}
        assert len(world.ends) == 60
        assert world.counts().running == 0
        assert world.counts().open == world.counts().idle <= 60
