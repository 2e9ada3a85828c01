"""Upstreams that misbehave, byte by byte: each request ends in one way, memory is bounded, nothing invalid passes."""

from __future__ import annotations

import socket

import pytest

from tests.support.upstream_world import (
    Upstream,
    answers,
    closes_after,
    edited,
    forwarding,
    read_head,
)
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\nx-kind: a\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nx-sum: 1\r\n\r\n"

INVALID = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "frame of HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "both lengths": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "two equal lengths": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "list of lengths": OK + b"content-length: 5, 5\r\n\r\nhello",
    "negative length": OK + b"content-length: -5\r\n\r\nhello",
    "length with a plus": OK + b"content-length: +5\r\n\r\nhello",
    "hexadecimal length": OK + b"content-length: 0x5\r\n\r\nhello",
    "length that overflows": OK + b"content-length: 99999999999999999999\r\n\r\nhello",
    "length that is empty": OK + b"content-length: \r\n\r\nhello",
    "gzip as the last coding": OK + b"transfer-encoding: chunked, gzip\r\n\r\n",
    "gzip, then chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"transfer-encoding: identity\r\n\r\nhello",
    "two codings": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked by HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and 204": b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "obsolete folding": OK + b"x-a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "folding by a tab": OK + b"x-a: b\r\n\tc\r\ncontent-length: 0\r\n\r\n",
    "space before the colon": OK + b"content-length : 5\r\n\r\nhello",
    "space before the name": OK + b" content-length: 5\r\n\r\nhello",
    "no colon": OK + b"content-length 5\r\n\r\nhello",
    "empty name": OK + b": value\r\n\r\n",
    "pseudo-header": OK + b":status: 500\r\ncontent-length: 0\r\n\r\n",
    "name with a control character": OK + b"x\x01: value\r\n\r\n",
    "name with a byte above 127": OK + b"x\xe9: value\r\n\r\n",
    "value with NUL": OK + b"x: a\0b\r\n\r\n",
    "value with CR": OK + b"x: a\rb: c\r\n\r\n",
    "value with a control character": OK + b"x: a\x01b\r\n\r\n",
    "value with DEL": OK + b"x: a\x7fb\r\n\r\n",
    "lines that end with LF": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
    "fields that end with LF": OK + b"content-length: 5\n\r\nhello",
    "1xx with a length": b"HTTP/1.1 199 X\r\ncontent-length: 2\r\n\r\nhi" + HELLO,
    "switching that nobody asked for": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "switching to HTTP/2": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    "101 without an upgrade": b"HTTP/1.1 101 S\r\n\r\n" + HELLO,
    "1xx with a body": b"HTTP/1.1 103 H\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HELLO,
}


@pytest.mark.parametrize("response", INVALID.values(), ids=INVALID.keys())
def test_what_is_no_valid_response(response: bytes) -> None:
    with Upstream(closes_after(response)) as upstream, forwarding(upstream) as world:
        got = world.get()
        end = world.ended()
        assert (got.status, end.outcome, end.head_sent) == (502, Outcome.INVALID, False), end
        assert end.reason != ""
        assert end.reason.isprintable()
        assert world.counts().open == 0


INVALID_LATER = {
    "chunk size": b"z\r\n",
    "negative chunk size": b"-1\r\n",
    "chunk size that overflows": b"fffffffffffffffff\r\n",
    "no CRLF after a chunk": b"5\r\nhelloX",
    "chunk longer than its size": b"3\r\nhello\r\n0\r\n\r\n",
    "LF instead of CRLF": b"5\nhello\n0\n\n",
    "trailer without a colon": b"5\r\nhello\r\n0\r\nx\r\n\r\n",
    "trailer with a control character": b"5\r\nhello\r\n0\r\nx: \1\r\n\r\n",
}


@pytest.mark.parametrize("rest", INVALID_LATER.values(), ids=INVALID_LATER.keys())
def test_what_is_no_valid_body(rest: bytes) -> None:
    head = OK + b"transfer-encoding: chunked\r\n\r\n1\r\n.\r\n"
    with Upstream(closes_after(head + rest)) as upstream, forwarding(upstream) as world:
        got = world.get()
        assert got.reset is not None
        assert (world.ended().outcome, world.ended().head_sent) == (Outcome.TRUNCATED, True)
        assert world.counts().open == 0


@pytest.mark.parametrize("response", [HELLO, CHUNKED], ids=["length", "chunked"])
def test_cut_at_each_byte(response: bytes) -> None:
    for length in range(len(response)):
        with Upstream(closes_after(response[:length])) as upstream, forwarding(upstream) as world:
            got = world.get()
            end = world.ended()
            head_complete = response.index(b"\r\n\r\n") + 4 <= length
            assert end.outcome == (Outcome.TRUNCATED if head_complete else Outcome.CLOSED_EARLY), length
            assert end.head_sent == head_complete
            assert (got.reset is not None) == head_complete
            assert got.status == (200 if head_complete else 502)


@pytest.mark.parametrize("response", [HELLO, CHUNKED], ids=["length", "chunked"])
def test_one_byte_at_a_time(response: bytes) -> None:
    def script(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while read_head(connection):
            for byte in response:
                connection.sendall(bytes((byte,)))

    with Upstream(script) as upstream, forwarding(upstream) as world:
        for _ in range(2):
            got = world.get()
            assert got.status == 200
            assert bytes(got.body) in (b"hello", b"hello world")
        assert [end.reused for end in world.ends] == [False, True]


def test_bytes_after_the_response_close_the_connection() -> None:
    """They would be taken for the answer to the next request."""
    evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    with Upstream(answers(HELLO + evil, HELLO)) as upstream, forwarding(upstream) as world:
        assert bytes(world.get().body) == b"hello"
        assert world.counts().open == 0
        assert bytes(world.get().body) == b"hello"
        assert not world.ends[1].reused


def test_fields_of_the_connection_stay_there() -> None:
    response = (
        OK + b"Connection: close, X-Hop\r\nkeep-alive: 5\r\nproxy-connection: close\r\nUpgrade: h2c\r\nX-Hop: 1\r\n"
        b"te: trailers\r\nX-Kept: 1\r\ncontent-length: 0\r\n\r\n"
    )
    with Upstream(answers(response)) as upstream, forwarding(upstream) as world:
        assert world.get().headers == {b"x-kept": b"1", b"content-length": b"0"}
        assert world.counts().open == 0  # connection: close


def test_head_limits() -> None:
    settings = PoolSettings(max_head_bytes=4096, max_fields=20)
    many = OK + b"".join(b"x-%d: 1\r\n" % i for i in range(21)) + b"content-length: 0\r\n\r\n"
    large = OK + b"x: " + bytes(5000).replace(b"\0", b"a") + b"\r\ncontent-length: 0\r\n\r\n"
    for response in (many, large):
        with Upstream(answers(response)) as upstream, forwarding(upstream, settings=settings) as world:
            assert world.get().status == 502
            assert world.ended().outcome == Outcome.INVALID
    most = OK + b"".join(b"x-%d: 1\r\n" % i for i in range(19)) + b"content-length: 0\r\n\r\n"
    with Upstream(answers(most)) as upstream, forwarding(upstream, settings=settings) as world:
        assert world.get().status == 200


ENDLESS = {
    "fields": (OK, b"x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
    "one name": (OK, b"x"),
    "one value": (OK + b"x: ", b"y"),
    "spaces of a value": (OK + b"x: ", b" "),
    "a reason": (b"HTTP/1.1 200 ", b"OK"),
    "informational responses": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
    "100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "empty lines": (b"", b"\r\n"),
    "extensions of a chunk": (OK + b"transfer-encoding: chunked\r\n\r\n5;", b"a"),
    "trailers": (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    "zeros of a chunk size": (OK + b"transfer-encoding: chunked\r\n\r\n", b"0"),
}


@pytest.mark.parametrize(("begin", "piece"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends(begin: bytes, piece: bytes) -> None:
    sent = 0

    def script(connection: socket.socket) -> None:
        nonlocal sent
        read_head(connection)
        connection.sendall(begin)
        block = piece * (16_384 // len(piece))
        while sent < 64_000_000:
            connection.sendall(block)
            sent += len(block)

    with Upstream(script) as upstream, forwarding(upstream) as world:
        world.get()
        assert world.ended().outcome in (Outcome.INVALID, Outcome.TRUNCATED)
        assert world.ended().response_bytes == 0
        assert world.counts().open == 0
    assert sent < 12_000_000  # what fits into the buffers of two sockets


def test_edits_of_the_response() -> None:
    change = edited(
        response_remove=[b"x-kind"],
        response_set=[(b"server", b"edge")],
        response_add=[(b"vary", b"origin")],
        response_default=[(b"cache-control", b"no-store"), (b"etag", b"mine")],
    )
    response = OK + b"server: nginx\r\nx-kind: a\r\netag: theirs\r\ncontent-length: 0\r\n\r\n"
    with Upstream(answers(response)) as upstream, forwarding(upstream, request=change) as world:
        assert world.get().headers == {
            b"server": b"edge",
            b"vary": b"origin",
            b"cache-control": b"no-store",
            b"etag": b"theirs",
            b"content-length": b"0",
        }


BAD_REQUESTS = {
    "CRLF in the target": edited(target=b"/ HTTP/1.1\r\nx: y\r\n\r\n"),
    "space in the target": edited(target=b"/a b"),
    "relative target": edited(target=b"a"),
    "no target": edited(target=b""),
    "space in the method": edited(method=b"GET /"),
    "LF in the authority": edited(authority=b"a\nb"),
    "user information": edited(authority=b"user@host"),
    "CR in a value": edited(add=[(b"x", b"a\rb")]),
    "LF in a value": edited(fields=[(b"x", b"a\nb")]),
    "NUL in a value": edited(fields=[(b"x", b"a\0b")]),
    "colon in a name": edited(add=[(b"x:", b"a")]),
    "space in a name": edited(add=[(b"x ", b"a")]),
    "upper case": edited(add=[(b"X-A", b"a")]),
    "empty name": edited(add=[(b"", b"a")]),
    "two lengths": edited(fields=[(b"content-length", b"1"), (b"content-length", b"1")]),
    "length in words": edited(add=[(b"content-length", b"one")]),
    "unknown expectation": edited(add=[(b"expect", b"miracles")]),
    "no bytes": edited(add=[("x", "y")]),
    "no pair": edited(add=[b"x"]),
}


@pytest.mark.parametrize("request_", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_nothing_malformed_reaches_an_upstream(request_: object) -> None:
    with Upstream(answers(HELLO)) as upstream, forwarding(upstream) as world:
        world.app.handler = world.app.requests.append
        client = world.client()
        client.get("/")
        world.until(lambda: world.app.requests != [])
        event = world.app.requests[0]
        with pytest.raises((ValueError, TypeError), match=r"cannot forward|must be"):
            world.forwarding.forward(world.pool, event.stream, request_(event))  # type: ignore[operator]
        assert world.ends == []
        assert world.counts().requests == 0


def test_fields_of_the_request() -> None:
    heads: list[bytes] = []
    change = edited(
        fields=[
            (b"accept", b"*/*"),
            (b"te", b"trailers"),
            (b"connection", b"x"),
            (b"transfer-encoding", b"chunked"),
            (b"keep-alive", b"5"),
            (b"upgrade", b"h2c"),
            (b"http2-settings", b"AAMAAABkAAQAAP__"),
            (b"proxy-connection", b"close"),
            (b"host", b"other"),
            (b"x-forwarded-for", b"6.6.6.6"),
        ],
        drop=[b"x-forwarded-for"],
        add=[(b"x-forwarded-for", b"192.0.2.1")],
    )
    with Upstream(answers(HELLO, heads=heads)) as upstream, forwarding(upstream, request=change) as world:
        assert world.get().status == 200
    assert heads == [
        b"GET / HTTP/1.1\r\nhost: velocity.test\r\naccept: */*\r\nte: trailers\r\nx-forwarded-for: 192.0.2.1\r\n"
        b"connection: te\r\n\r\n"
    ]
