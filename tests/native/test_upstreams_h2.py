"""Requests to HTTP/2 upstreams: many on a connection, back-pressure both ways, and every end has its outcome."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from tests.support.engine_driver import Response, pattern
from tests.support.h2_script import H2C, PREFACE, H2Site, Link, Request, frame
from tests.support.h3_bytes import frame as h3_frame
from tests.support.h3_bytes import headers as h3_headers
from tests.support.h3_bytes import request as h3_request
from tests.support.upstream_world import Upstream, UpstreamWorld, edited, forwarding, read_exactly
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

H3_INTERNAL_ERROR, H3_REQUEST_CANCELLED = 0x102, 0x10C
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9


def hello(link: Link, stream: int, request: Request) -> None:
    link.answer(stream, b"hello", (b"x-from", b"h2"))


def respond_at_end(link: Link, stream: int) -> None:
    link.answer(stream, b"%d" % len(link.streams[stream].body))


def many(world: UpstreamWorld, n: int, path: str = "/") -> list[Response]:
    client = world.client()
    return [client.get(f"{path}{i}") for i in range(n)]


# --- requests and responses -------------------------------------------------------------------------------------------


def test_a_request_and_its_response_pass() -> None:
    site = H2Site(on_request=hello)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/a?b=c", x_one="1", te="trailers")
        end = world.ended()
    assert (response.status, bytes(response.body), response.headers[b"x-from"]) == (200, b"hello", b"h2")
    [request] = site.requests
    assert request.fields[b":method"] == b"GET"
    assert request.fields[b":scheme"] == b"http"
    assert request.fields[b":path"] == b"/a?b=c"
    assert request.fields[b":authority"] == b"velocity.test"
    assert request.fields[b"x-one"] == b"1"
    assert request.fields[b"te"] == b"trailers"
    assert request.ended
    assert (end.outcome, end.status, end.response_bytes, end.reused) == (Outcome.COMPLETE, 200, 5, False)


def test_requests_share_a_connection() -> None:
    site = H2Site(on_request=hello)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        responses = many(world, 50)
        world.until(lambda: all(response.done for response in responses))
        assert len(upstream.connections) == 1
        assert (world.counts().open, world.counts().idle, world.counts().requests) == (1, 1, 50)
        again = world.get("/again")
    assert {bytes(response.body) for response in (*responses, again)} == {b"hello"}
    assert [end.outcome for end in world.ends] == [Outcome.COMPLETE] * 51
    assert world.ends[-1].reused


def test_more_requests_than_the_upstream_takes_open_other_connections() -> None:
    site = H2Site(max_streams=3)
    answered: set[tuple[int, int]] = set()

    def on_idle(link: Link) -> None:
        for stream in list(link.streams):
            if len(site.requests) == 10 and (id(link), stream) not in answered:
                answered.add((id(link), stream))
                link.answer(stream, b"ok")

    site.on_idle = on_idle
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        first = client.get("/first")
        world.until(lambda: len(site.requests) == 1)
        responses = [first, *(client.get(f"/{i}") for i in range(9))]
        world.until(lambda: all(response.done for response in responses))
        assert len(upstream.connections) == 4
    assert sorted(len(link.streams) for link in site.links) == [1, 3, 3, 3]
    assert [response.status for response in responses] == [200] * 10


@pytest.mark.parametrize("length", [1, 16_384, 100_000, 3_000_000])
def test_a_large_body_passes(length: int) -> None:
    site = H2Site(on_request=lambda link, stream, request: link.answer(stream, pattern(length)))
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
        world.ended()
    assert bytes(response.body) == pattern(length)


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 1_000_000])
def test_an_upload_passes(length: int) -> None:
    site = H2Site(on_end=respond_at_end)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/", "POST", pattern(length))
        end = world.ended()
    assert bytes(response.body) == b"%d" % length
    assert site.requests[0].body == pattern(length)
    assert (end.outcome, end.request_bytes, end.body_sent) == (Outcome.COMPLETE, length, length > 0)


def test_fields_of_one_connection_do_not_reach_the_upstream() -> None:
    """Nor `host`: it is `:authority` (RFC 9113 sections 8.2.2 and 8.3.1)."""
    site = H2Site(on_request=hello)
    add = [(b"connection", b"close"), (b"keep-alive", b"1"), (b"host", b"x"), (b"te", b"gzip"), (b"x-added", b"1")]
    with (
        Upstream(site.script) as upstream,
        forwarding(upstream, settings=H2C, request=edited(add=add, drop=[b"x-gone"])) as world,
    ):
        assert world.get("/", x_gone="1", cookie="a=b", authorization="secret").status == 200
    names = [name for name, _ in site.requests[0].raw]
    assert {b"connection", b"keep-alive", b"host", b"te", b"x-gone"}.isdisjoint(names)
    assert {b"x-added", b"cookie", b"authorization"} <= set(names)


def test_head_and_304_have_no_body() -> None:
    def on_request(link: Link, stream: int, request: Request) -> None:
        status = int(request.fields[b":path"][1:])
        link.head(stream, status, (b"x-sum", b"5"), end=True)

    site = H2Site(on_request=on_request)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        for method, status in (("HEAD", 200), ("GET", 304)):
            response = world.get(f"/{status}", method)
            assert (response.status, response.body, response.headers[b"x-sum"]) == (status, b"", b"5")
    assert [end.outcome for end in world.ends] == [Outcome.COMPLETE] * 2


def test_trailers_pass_both_ways() -> None:
    """gRPC: its status is a trailer, and clients may send trailers, too."""
    site = H2Site()
    site.on_end = lambda link, stream: link.answer(
        stream, b"reply", trailers=[(b"grpc-status", b"0"), (b"content-type", b"late"), (b"x-sum", b"1")]
    )
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        stream_id = client.quic.get_next_available_stream_id()
        response = client.responses[stream_id] = Response(stream_id)
        pieces = h3_headers(h3_request(b"/", b"POST")) + h3_frame(0, b"abc") + h3_headers([(b"x-last", b"yes")])
        client.quic.send_stream_data(stream_id, pieces, end_stream=True)
        world.until(lambda: response.done)
    assert (site.requests[0].body, site.requests[0].trailers) == (b"abc", [(b"x-last", b"yes")])
    assert (bytes(response.body), response.trailers) == (b"reply", [(b"grpc-status", b"0"), (b"x-sum", b"1")])


def test_a_response_of_trailers_alone_passes() -> None:
    """gRPC's Trailers-Only: one HEADERS frame that ends the stream."""
    site = H2Site(on_request=lambda link, stream, request: link.head(stream, 200, (b"grpc-status", b"12"), end=True))
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/", "POST", b"x")
    assert (response.status, response.headers[b"grpc-status"], response.body) == (200, b"12", b"")


def test_informational_responses_pass() -> None:
    def on_request(link: Link, stream: int, request: Request) -> None:
        for n in range(2):
            link.head(stream, 103, (b"link", b"</%d>" % n))
        link.answer(stream, b"ok")

    site = H2Site(on_request=on_request)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
    assert (response.interim, response.status) == ([103, 103], 200)
    assert response.interim_headers == [[(b"link", b"</0>")], [(b"link", b"</1>")]]


def test_both_directions_stream_at_the_same_time() -> None:
    """Each message of the client is answered before it sends the next one: nothing waits for an end."""
    site = H2Site(on_request=lambda link, stream, request: link.head(stream))
    site.on_data = lambda link, stream, data: link.send(stream, data.upper(), end=False)
    site.on_end = lambda link, stream: link.send(stream, b"", trailers=[(b"grpc-status", b"0")])
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        response = client.request("POST", "/", end=False)
        world.until(lambda: response.status == 200)
        assert client.http is not None
        for n in range(5):
            client.http.send_data(response.stream_id, b"ping", end_stream=False)
            world.until(lambda n=n: len(response.body) == 4 * (n + 1))  # type: ignore[misc]
        client.http.send_data(response.stream_id, b"", end_stream=True)
        world.until(lambda: response.done)
        end = world.ended()
    assert (bytes(response.body), response.trailers) == (b"PING" * 5, [(b"grpc-status", b"0")])
    assert (end.outcome, end.request_bytes) == (Outcome.COMPLETE, 20)


def test_a_response_before_the_end_of_the_request_ends_the_upload() -> None:
    site = H2Site(on_request=lambda link, stream, request: link.head(stream, 413, end=True))
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        response = client.request("POST", "/", body=b"begun", end=False)
        world.until(lambda: response.done)
        world.until(lambda: site.requests[0].reset is not None)
        assert world.counts().open == 1
    assert (response.status, site.requests[0].reset) == (413, 0)
    assert world.ended().outcome == Outcome.COMPLETE


# --- back-pressure ----------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_stops_its_upstream_stream_only() -> None:
    """The upstream gets window for what the client took, and others on the same connection go on."""
    total = 1_500_000
    site = H2Site(
        on_request=lambda link, stream, request: link.answer(
            stream, pattern(total if request.fields[b":path"] == b"/slow" else 5)
        )
    )
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        slow = world.client(max_stream_data=20_000, max_data=20_000)
        response = slow.get("/slow")
        world.until(lambda: response.status == 200)
        slow.paused = True
        for n in range(5):
            assert world.get(f"/quick{n}").body == pattern(5)
        [(left, _)] = site.links[0].waiting.values()
        # A stream's window, what waits for the client, and what it allowed to send.
        assert 262_144 < total - len(left) <= 262_144 + world.limits.send_high_bytes + 100_000
        assert len(upstream.connections) == 1
        slow.paused = False
        world.until(lambda: response.done)
    assert bytes(response.body) == pattern(total)


def test_an_upstream_that_does_not_read_stops_the_client() -> None:
    """The client gets credit for what the upstream gave window for."""
    site = H2Site(credits=False)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        response = client.request("POST", "/", body=pattern(700_000))
        world.until(lambda: bool(site.requests) and len(site.requests[0].body) == 65_535)
        world.run(seconds=2)
        sent = client.quic._streams[response.stream_id].sender.highest_offset
        assert sent <= 65_535 + world.limits.stream_window_bytes + 100  # framing
        site.credits = True
        link = site.links[0]
        link.site.on_end = respond_at_end
        link.site.on_idle = lambda link: (
            link.parser.acknowledge_received_data(65_535, 1) if len(link.streams[1].body) == 65_535 else None
        )
        world.until(lambda: response.done)
    assert bytes(response.body) == b"700000"


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_cancels_its_stream_only() -> None:
    site = H2Site(
        on_request=lambda link, stream, request: (
            hello(link, stream, request) if request.fields[b":path"] == b"/quick" else link.head(stream)
        )
    )
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        response = client.get("/hang")
        world.until(lambda: response.status == 200)
        client.quic.stop_stream(response.stream_id, H3_REQUEST_CANCELLED)
        world.until(lambda: site.requests[0].reset is not None)
        assert site.requests[0].reset == 8  # CANCEL
        assert world.ended().outcome == Outcome.CLIENT_GONE
        assert client.fetch is not None
        assert world.get("/quick").body == b"hello"
        assert len(upstream.connections) == 1


def test_a_client_that_goes_before_the_head_cancels_its_stream() -> None:
    site = H2Site()
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        response = client.get("/hang")
        world.until(lambda: len(site.requests) == 1)
        client.quic.stop_stream(response.stream_id, H3_REQUEST_CANCELLED)
        world.until(lambda: site.requests[0].reset == 8)
        world.until(lambda: world.counts().idle == 1)
    assert world.ended().outcome == Outcome.CLIENT_GONE


@pytest.mark.parametrize(("code", "reused"), [(2, False), (7, True)])
def test_a_stream_that_the_upstream_resets_fails_alone(code: int, reused: bool) -> None:
    """REFUSED_STREAM says that it was not processed: as good as a connection that had been closed before."""

    def on_request(link: Link, stream: int, request: Request) -> None:
        if request.fields[b":path"] == b"/bad":
            link.parser.reset_stream(stream, code)
        else:
            hello(link, stream, request)

    site = H2Site(on_request=on_request)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        assert world.get("/bad").status == 502
        end = world.ended()
        assert (end.outcome, end.head_sent, end.body_sent, end.reused) == (Outcome.CLOSED_EARLY, False, False, reused)
        assert world.get("/good").status == 200
        assert len(upstream.connections) == 1


def test_a_stream_that_is_reset_after_its_head_is_truncated() -> None:
    def on_request(link: Link, stream: int, request: Request) -> None:
        link.head(stream)
        link.send(stream, b"half", end=False)
        link.parser.reset_stream(stream, 2)

    site = H2Site(on_request=on_request)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
        assert (response.reset, world.ended().outcome) == (H3_INTERNAL_ERROR, Outcome.TRUNCATED)


def test_goaway_lets_running_requests_finish_and_others_be_tried_again() -> None:
    """Streams above the id that it names were not processed (RFC 9113 section 6.8)."""
    site = H2Site()

    def on_idle(link: Link) -> None:
        if len(link.streams) == 3 and link is site.links[0] and 1 in link.streams and not link.streams[1].body:
            link.streams[1].body = b"seen"
            link.flush()
            link.socket.send(frame(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4)))
            for stream in (1, 3):
                link.answer(stream, b"finished")

    site.on_idle = on_idle
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        responses = many(world, 3)
        world.until(lambda: all(response.done for response in responses))
        outcomes = sorted((end.outcome, end.reused, end.body_sent) for end in world.ends)
        assert outcomes[0][0] == outcomes[1][0] == Outcome.COMPLETE
        assert outcomes[2] == (Outcome.CLOSED_EARLY, True, False)
        site.on_idle = lambda link: None
        site.on_request = hello
        assert world.get("/next").body == b"hello"
        assert len(upstream.connections) == 2
        world.until(lambda: world.counts().open == 1)
    assert sorted(response.status for response in responses) == [200, 200, 502]


def test_an_idle_connection_that_says_goaway_is_not_used_again() -> None:
    site = H2Site(on_request=hello)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        assert world.get("/1").status == 200
        upstream.connections[0].send(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        world.until(lambda: world.counts().open == 0)
        assert world.get("/2").status == 200
        assert len(upstream.connections) == 2


@pytest.mark.parametrize("with_head", [False, True])
def test_a_connection_that_ends_fails_all_of_its_requests(with_head: bool) -> None:
    site = H2Site(on_request=lambda link, stream, request: link.head(stream) if with_head else None)

    def on_idle(link: Link) -> None:
        if len(link.streams) == 5:
            link.socket.shutdown(socket.SHUT_RDWR)

    site.on_idle = on_idle
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world:
        responses = many(world, 5)
        world.until(lambda: all(response.over for response in responses))
        assert world.counts().open == 0
    outcome = Outcome.TRUNCATED if with_head else Outcome.CLOSED_EARLY
    assert [(end.outcome, end.head_sent) for end in world.ends] == [(outcome, with_head)] * 5
    assert all(response.reset if with_head else response.status == 502 for response in responses)


def test_no_response_in_time_resets_the_stream_and_retires_the_connection() -> None:
    site = H2Site(
        on_request=lambda link, stream, request: (
            hello(link, stream, request) if request.fields[b":path"] == b"/quick" else None
        )
    )
    settings = PoolSettings(protocol="h2", response_timeout_ns=5_000_000_000)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=settings) as world:
        client = world.client()
        response = client.get("/hang")
        world.until(lambda: len(site.requests) == 1)
        world.pass_time(6)
        world.until(lambda: response.done)
        assert (response.status, world.ended().outcome) == (502, Outcome.RESPONSE_TIMEOUT)
        world.until(lambda: site.requests[0].reset == 8)
        assert world.get("/quick").status == 200
        assert len(upstream.connections) == 2


def test_a_body_above_its_limit_is_cancelled() -> None:
    site = H2Site()
    with (
        Upstream(site.script) as upstream,
        forwarding(upstream, settings=H2C, request=edited(max_body_bytes=10_000)) as world,
    ):
        client = world.client()
        response = client.request("POST", "/", body=pattern(5_000), end=False)
        world.until(lambda: bool(site.requests) and len(site.requests[0].body) == 5_000)
        assert client.http is not None
        client.http.send_data(response.stream_id, pattern(10_000), end_stream=False)
        world.until(lambda: response.done)
        assert (response.status, world.ended().outcome) == (502, Outcome.REQUEST_TOO_LARGE)
        world.until(lambda: site.requests[0].reset == 8)


# --- an upstream that misbehaves --------------------------------------------------------------------------------------


def bad_site(after_request: bytes, *, close: bool = False) -> Any:
    """A script that answers the first request with raw frames, on stream 1."""

    def script(connection: socket.socket) -> None:
        read_exactly(connection, len(PREFACE))
        connection.sendall(frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0))
        while True:
            head = read_exactly(connection, 9)
            read_exactly(connection, int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                break
        connection.sendall(after_request)
        if close:
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass

    return script


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block of literals without indexing and without Huffman code (RFC 7541 section 6.2.2)."""
    return b"".join(
        b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields if len(value) < 127
    )


def head_frame(*fields: tuple[bytes, bytes], end: bool = True, status: bytes = b"200") -> bytes:
    return frame(HEADERS, 5 if end else 4, 1, block((b":status", status), *fields))


OK = head_frame(end=False)
INVALID_RESPONSES = {
    "upper case": head_frame((b"X-Upper", b"1")),
    "a newline in a value": head_frame((b"x", b"a\r\nb: c")),
    "a NUL in a value": head_frame((b"x", b"a\0b")),
    "an empty name": head_frame((b"", b"x")),
    "connection": head_frame((b"connection", b"close")),
    "transfer-encoding": head_frame((b"transfer-encoding", b"chunked")),
    "no status": frame(HEADERS, 5, 1, block((b"x", b"y"))),
    "status twice": head_frame((b":status", b"200")),
    "status of letters": head_frame(status=b"2xx"),
    "status of two digits": head_frame(status=b"20"),
    "status 101": head_frame(status=b"101", end=False),
    "a pseudo-header of requests": head_frame((b":path", b"/")),
    "an informational response that ends the stream": head_frame(status=b"103"),
    "two lengths": head_frame((b"content-length", b"1"), (b"content-length", b"2"), end=False),
    "a length that is no number": head_frame((b"content-length", b"-1"), end=False),
    "DATA before HEADERS": frame(DATA, 1, 1, b"x"),
    "many fields": head_frame(*((b"x", b"y"),) * 200),
    "many hints": head_frame(status=b"103", end=False) * 100,
}
CUT_RESPONSES = {
    "less than the length": head_frame((b"content-length", b"5"), end=False) + frame(DATA, 1, 1, b"abc"),
    "more than the length": head_frame((b"content-length", b"2"), end=False) + frame(DATA, 1, 1, b"abc"),
    "pseudo-header in trailers": OK + frame(DATA, 0, 1, b"x") + frame(HEADERS, 5, 1, block((b":status", b"200"))),
    "trailers without an end": OK + frame(DATA, 0, 1, b"x") + frame(HEADERS, 4, 1, block((b"x", b"y"))),
    "a second head": OK + OK,
}
BROKEN_CONNECTIONS = {
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100,
    "a frame that is too large": (20_000).to_bytes(3, "big") + bytes((DATA, 0, 0, 0, 0, 1)) + bytes(20_000),
    "DATA on stream 0": frame(DATA, 0, 0, b"x"),
    "HEADERS of a stream that was not opened": frame(HEADERS, 5, 7, block((b":status", b"200"))),
    "HPACK that is none": frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
    "PUSH_PROMISE": frame(5, 4, 1, (2).to_bytes(4, "big") + block((b":path", b"/"))),
    "WINDOW_UPDATE by 0 of the connection": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "SETTINGS of 5 bytes": frame(SETTINGS, 0, 0, b"12345"),
    "CONTINUATION alone": frame(CONTINUATION, 4, 1, b""),
    "a flood of PING": frame(PING, 0, 0, bytes(8)) * 20_000,
    "a flood of SETTINGS": frame(SETTINGS, 0, 0, b"\0\3\0\0\0\5") * 20_000,
    "a flood of empty DATA": OK + frame(DATA, 0, 1) * 20_000,
    "a flood of unknown frames": frame(0x42, 0, 1) * 40_000,
    "a flood of CONTINUATION": frame(HEADERS, 0, 1, block((b":status", b"200"))) + frame(CONTINUATION, 0, 1) * 20_000,
    "a flood of WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")) * 20_000,
}


@pytest.mark.parametrize("name", INVALID_RESPONSES)
def test_an_invalid_response_is_none(name: str) -> None:
    with Upstream(bad_site(INVALID_RESPONSES[name])) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
        end = world.ended()
    assert (response.status, end.outcome, end.head_sent) == (502, Outcome.INVALID, False)


@pytest.mark.parametrize("name", CUT_RESPONSES)
def test_a_response_that_becomes_invalid_is_cut(name: str) -> None:
    with Upstream(bad_site(CUT_RESPONSES[name])) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
        end = world.ended()
    assert (response.reset, response.done) == (H3_INTERNAL_ERROR, False)
    assert (end.outcome, end.head_sent) == (Outcome.TRUNCATED, True)


@pytest.mark.parametrize("name", BROKEN_CONNECTIONS)
def test_an_error_of_the_connection_closes_it(name: str) -> None:
    with Upstream(bad_site(BROKEN_CONNECTIONS[name])) as upstream, forwarding(upstream, settings=H2C) as world:
        response = world.get("/")
        end = world.ended()
        world.until(lambda: world.counts().open == 0)
    assert response.over
    assert end.outcome in (Outcome.INVALID, Outcome.TRUNCATED, Outcome.CLOSED_EARLY)


WHOLE = head_frame((b"x-sum", b"1"), end=False) + frame(DATA, 1, 1, b"0123456789")


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_response_that_ends_anywhere_fails(length: int) -> None:
    head_length = len(WHOLE) - 19

    with (
        Upstream(bad_site(WHOLE[:length], close=True)) as upstream,
        forwarding(upstream, settings=H2C) as world,
    ):
        response = world.get("/")
        end = world.ended()
    if length < head_length:
        assert (response.status, end.outcome) == (502, Outcome.CLOSED_EARLY)
    else:
        assert (response.reset, end.outcome) == (H3_INTERNAL_ERROR, Outcome.TRUNCATED)


def test_a_response_changed_at_random_ends_each_request_once() -> None:
    """One connection per request, bytes of it changed, left out or sent twice."""
    whole = WHOLE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, bytes(8)) + frame(GOAWAY, 0, 0, bytes(8))
    chance = random.Random(4)
    changed: list[bytes] = []
    for _ in range(150):
        blob = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(blob))
            match chance.randint(0, 3):
                case 0:
                    blob[at] = chance.randrange(256)
                case 1:
                    del blob[at : at + chance.randint(1, 9)]
                case 2:
                    blob[at:at] = blob[at : at + chance.randint(1, 30)]
                case _:
                    blob[at] ^= 1 << chance.randrange(8)
        changed.append(bytes(blob))
    left = iter(changed)

    def script(connection: socket.socket) -> None:
        bad_site(next(left), close=True)(connection)

    with Upstream(script) as upstream, forwarding(upstream, settings=H2C) as world:
        client = world.client()
        for n in range(len(changed)):
            response = client.get(f"/{n}")
            world.until(lambda n=n: len(world.ends) == n + 1)  # type: ignore[misc]
            world.until(lambda r=response: r.over)  # type: ignore[misc]
            world.until(lambda: world.counts().open == 0)
        assert client.terminated is None
    assert len({end.stream for end in world.ends}) == len(changed)
    assert {Outcome.COMPLETE, Outcome.INVALID, Outcome.TRUNCATED} <= {end.outcome for end in world.ends}


# --- WebSocket --------------------------------------------------------------------------------------------------------


def websocket(world: UpstreamWorld) -> tuple[Any, Response]:
    client = world.client()
    stream_id = client.quic.get_next_available_stream_id()
    response = client.responses[stream_id] = Response(stream_id)
    fields = h3_request(b"/chat", b"CONNECT", extra=[(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")])
    client.quic.send_stream_data(stream_id, h3_headers(fields))
    return client, response


TUNNELS = edited(protocol=b"websocket", max_body_bytes=10)


def test_a_websocket_stays_an_extended_connect() -> None:
    """RFC 8441; nor does the limit of request bodies count for it."""
    site = H2Site(on_request=lambda link, stream, request: link.head(stream), connect_protocol=True)
    site.on_data = lambda link, stream, data: link.send(stream, data.upper(), end=False)
    site.on_end = lambda link, stream: link.send(stream, b"bye")
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C, request=TUNNELS) as world:
        client, response = websocket(world)
        world.until(lambda: response.status == 200)
        for n in range(10):
            client.quic.send_stream_data(response.stream_id, h3_frame(0, b"ping"))
            world.until(lambda n=n: len(response.body) == 4 * (n + 1))  # type: ignore[misc]
        assert not response.done
        client.quic.send_stream_data(response.stream_id, b"", end_stream=True)
        world.until(lambda: response.done)
        end = world.ended()
    fields = site.requests[0].fields
    assert (fields[b":method"], fields[b":protocol"], fields[b":path"]) == (b"CONNECT", b"websocket", b"/chat")
    assert (bytes(response.body), end.outcome) == (b"PING" * 10 + b"bye", Outcome.COMPLETE)


def test_a_tunnel_that_the_upstream_ends_first_stays_open_the_other_way() -> None:
    site = H2Site(connect_protocol=True)

    def on_request(link: Link, stream: int, request: Request) -> None:
        link.head(stream)
        link.send(stream, b"only this")

    site.on_request = on_request
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C, request=TUNNELS) as world:
        client, response = websocket(world)
        world.until(lambda: response.done)
        client.quic.send_stream_data(response.stream_id, h3_frame(0, b"still here"), end_stream=True)
        world.until(lambda: site.requests[0].ended)
        end = world.ended()
    assert (site.requests[0].body, end.outcome) == (b"still here", Outcome.COMPLETE)


def test_a_tunnel_that_the_client_resets_is_cancelled() -> None:
    site = H2Site(on_request=lambda link, stream, request: link.head(stream), connect_protocol=True)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C, request=TUNNELS) as world:
        client, response = websocket(world)
        world.until(lambda: response.status == 200)
        client.quic.reset_stream(response.stream_id, H3_REQUEST_CANCELLED)
        world.until(lambda: site.requests[0].reset == 8)
        assert world.ended().outcome == Outcome.CLIENT_GONE


def test_a_websocket_that_the_upstream_refuses_is_a_response() -> None:
    site = H2Site(on_request=lambda link, stream, request: link.head(stream, 403, end=True), connect_protocol=True)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C, request=TUNNELS) as world:
        _, response = websocket(world)
        world.until(lambda: response.done)
    assert response.status == 403


def test_an_upstream_without_websocket_over_http_2_gets_none() -> None:
    site = H2Site(on_request=hello)
    with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C, request=TUNNELS) as world:
        _, response = websocket(world)
        world.until(lambda: response.done)
        end = world.ended()
    assert (response.status, end.outcome, site.requests) == (502, Outcome.CONNECT_FAILED, [])
    assert "RFC 8441" in end.reason
