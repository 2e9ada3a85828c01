"""Fields after a body, both ways, and informational responses before the answer: in order, validated and bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.engine_driver import Response, StockClient, World, pattern
from tests.support.h3_bytes import frame, headers, request
from velocity_edge.http.requests import MAX_INFORMATIONAL, BodyReceived, FileRange
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
H3_EXCESSIVE_LOAD = 0x107
DATA = 0
GRPC = [(b"grpc-status", b"0"), (b"grpc-message", b""), (b"x-sum", b"1"), (b"x-sum", b"2")]


def post(w: World, client: StockClient, *pieces: bytes, fin: bool = True) -> Response:
    stream_id = client.quic.get_next_available_stream_id()
    response = client.responses[stream_id] = Response(stream_id)
    client.quic.send_stream_data(stream_id, headers(request(b"/count", b"POST")))
    for number, piece in enumerate(pieces, 1):
        client.quic.send_stream_data(stream_id, piece, end_stream=fin and number == len(pieces))
        w.run(seconds=0.05)
    w.run(lambda: response.over, seconds=5 if fin else 0.2)
    return response


# --- of requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"abc"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("last", [b"", frame(0x21, b"grease")])
def test_trailers_come_with_the_end_of_the_request(world: Make, body: bytes, split: bool, last: bytes) -> None:
    w = world()
    client = w.ready()
    pieces = [frame(DATA, body), headers(GRPC), last]
    response = post(w, client, *(pieces if split else [b"".join(pieces)]))
    assert (response.status, bytes(response.body)) == (200, b"%d" % len(body))
    assert w.app.trailers == {w.app.requests[0].stream: GRPC}


def test_trailers_wait_for_the_end_of_the_stream(world: Make) -> None:
    w = world()
    client = w.ready()
    response = post(w, client, frame(DATA, b"abc"), headers(GRPC), fin=False)
    assert (w.app.trailers, response.status) == ({}, 0)
    client.quic.send_stream_data(response.stream_id, b"", end_stream=True)
    w.run(lambda: response.done, seconds=5)
    assert list(w.app.trailers.values()) == [GRPC]


@pytest.mark.parametrize("pieces", [(frame(DATA, b"abc"),), (frame(DATA, b"abc"), headers([]))])
def test_a_request_without_trailers_has_an_empty_sequence(world: Make, pieces: tuple[bytes, ...]) -> None:
    w = world()
    client = w.ready()
    events: list[BodyReceived] = []
    handle = w.app.handle

    def watch(arrived: Any) -> None:
        arrived = list(arrived)
        events.extend(event for event in arrived if event.kind == 2)
        handle(arrived)

    w.app.handle = watch  # type: ignore[method-assign]
    assert post(w, client, *pieces).status == 200
    assert events
    assert all(len(event.trailers) == 0 for event in events)


def test_trailers_above_the_limit_of_a_field_section_reset_the_stream(world: Make) -> None:
    w = world(limits=Limits(max_field_section_bytes=4096))
    client = w.ready()
    fields = [(b"x-%d" % n, b"v" * 200) for n in range(16)]
    assert post(w, client, frame(DATA, b"abc"), headers(fields)).status == 200
    assert list(w.app.trailers.values()) == [fields]
    assert post(w, client, frame(DATA, b"abc"), headers(fields * 2)).reset == H3_EXCESSIVE_LOAD
    many = [(b"a", b"")] * 200  # 33 bytes each
    assert post(w, client, frame(DATA, b"abc"), headers(many)).reset == H3_EXCESSIVE_LOAD
    assert len(w.app.trailers) == 1


# --- of responses -----------------------------------------------------------------------------------------------------


def answering(w: World, begin: Callable[[int], None], trailers: Any = GRPC) -> None:
    """Answer each request by *begin*, then trailers."""

    def handler(event: Any) -> None:
        begin(event.stream)
        assert w.engine.trailers(event.stream, trailers) is True
        assert w.engine.trailers(event.stream, trailers) is False
        assert w.engine.write(event.stream, b"late", fin=True) == -1

    w.app.handler = handler


@pytest.mark.parametrize("length", [0, 1, 5_000, 3_000_000])
def test_trailers_come_after_all_of_the_body(world: Make, length: int) -> None:
    w = world()
    client = w.ready()

    def begin(stream: int) -> None:
        assert w.engine.respond(stream, 200, [(b"trailer", b"grpc-status")], None, fin=False)
        w.engine.write(stream, pattern(length), fin=False)

    answering(w, begin)
    response = client.fetch("/")
    assert (response.status, bytes(response.body), response.trailers) == (200, pattern(length), GRPC)
    w.run(seconds=1)
    assert [closed.complete for closed in w.app.stream_closed] == [True]
    assert w.engine.connections()[0][2] == 0


def test_trailers_come_after_a_file(world: Make) -> None:
    w = world()
    client = w.ready()

    def begin(stream: int) -> None:
        w.engine.respond(stream, 200, [], FileRange(w.app, 0, 2_000_000), fin=False)
        w.engine.write(stream, b"and more", fin=False)

    answering(w, begin)
    response = client.fetch("/")
    assert (bytes(response.body), response.trailers) == (pattern(2_000_000) + b"and more", GRPC)


def test_trailers_come_later_than_a_body_that_was_sent(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 200, [], b"body", fin=False)
    response = client.get("/")
    w.run(lambda: bytes(response.body) == b"body", seconds=5)
    w.run(seconds=1)
    assert w.engine.trailers(w.app.requests[0].stream, GRPC)
    w.run(lambda: response.done, seconds=5)
    assert response.trailers == GRPC


def test_no_trailers_end_a_response(world: Make) -> None:
    w = world()
    client = w.ready()
    answering(w, lambda stream: w.engine.respond(stream, 200, [], b"body", fin=False), trailers=())
    response = client.fetch("/")
    assert (response.done, bytes(response.body), response.trailers) == (True, b"body", [])


def test_trailers_of_a_response_without_a_body_are_refused(world: Make) -> None:
    w = world()
    client = w.ready()
    results: list[bool] = []

    def handler(event: Any) -> None:
        results.append(w.engine.trailers(event.stream, GRPC))  # no answer yet
        w.engine.respond(event.stream, int(event.path[1:]), [], None, fin=False)
        results.append(w.engine.trailers(event.stream, GRPC))

    w.app.handler = handler
    assert client.fetch("/200", method="HEAD").done
    assert client.fetch("/204").done
    assert results == [False] * 4
    assert w.engine.trailers(12345, GRPC) is False


BAD_FIELDS = [
    (b":status", b"200"),
    (b"X-Sum", b"1"),
    (b"", b"1"),
    (b"a b", b"1"),
    (b"a", b"x\r\ny: z"),
    (b"a", b"\0"),
    (b"a", b" x"),
]


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_field_that_must_not_be_sent_raises(world: Make, field: tuple[bytes, bytes]) -> None:
    w = world()
    client = w.ready()

    def handler(event: Any) -> None:
        for status in (103, 200):
            with pytest.raises(ValueError, match="invalid header field"):
                w.engine.respond(event.stream, status, [field], None, fin=False)
        w.engine.respond(event.stream, 200, [], b"body", fin=False)
        with pytest.raises(ValueError, match="invalid header field"):
            w.engine.trailers(event.stream, [(b"x-good", b"1"), field])
        assert w.engine.trailers(event.stream, GRPC)

    w.app.handler = handler
    response = client.fetch("/")
    assert (response.interim, response.status, response.trailers) == ([], 200, GRPC)


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"connection", b"content-type", b"trailer"])
def test_a_field_that_belongs_before_the_content_is_no_trailer(world: Make, name: bytes) -> None:
    w = world()
    client = w.ready()

    def handler(event: Any) -> None:
        w.engine.respond(event.stream, 200, [], b"body", fin=False)
        with pytest.raises(ValueError, match="must come before the content"):
            w.engine.trailers(event.stream, [(name, b"1")])
        w.engine.write(event.stream, b"", fin=True)

    w.app.handler = handler
    assert client.fetch("/").done


# --- informational ----------------------------------------------------------------------------------------------------


def test_several_informational_responses_with_fields_come_in_order(world: Make) -> None:
    w = world()
    client = w.ready()
    links = [[(b"link", b"</%d>; rel=preload" % n)] for n in range(3)]

    def handler(event: Any) -> None:
        for fields in links:
            assert w.engine.respond(event.stream, 103, fields, None, fin=False)
        w.engine.respond(event.stream, 102, (), None, fin=False)
        w.engine.respond(event.stream, 200, [], b"ok")

    w.app.handler = handler
    response = client.fetch("/")
    assert (response.interim, response.interim_headers) == ([103, 103, 103, 102], [*links, []])
    assert (response.status, bytes(response.body)) == (200, b"ok")
    assert w.counters()["responses_1xx"] == 4


def test_informational_responses_are_bounded(world: Make) -> None:
    w = world()
    client = w.ready()
    results: list[bool] = []

    def handler(event: Any) -> None:
        results.extend(w.engine.respond(event.stream, 103, [], None, fin=False) for _ in range(1000))
        w.engine.respond(event.stream, 200, [], b"ok")

    w.app.handler = handler
    response = client.fetch("/")
    assert results == [True] * MAX_INFORMATIONAL + [False] * (1000 - MAX_INFORMATIONAL)
    assert (len(response.interim), response.status) == (MAX_INFORMATIONAL, 200)
    assert w.counters()["responses_1xx"] == MAX_INFORMATIONAL


@pytest.mark.parametrize("status", [99, 101, 600, 0, -1, 1200])
def test_a_status_that_http_3_does_not_have_raises(world: Make, status: int) -> None:
    """101 (Switching Protocols) is one of them: RFC 9114 section 4.5."""
    w = world()
    client = w.ready()

    def handler(event: Any) -> None:
        with pytest.raises(ValueError, match="expected 100, 102 to 599"):
            w.engine.respond(event.stream, status, [], None, fin=False)
        w.engine.respond(event.stream, 200, [], b"ok")

    w.app.handler = handler
    assert client.fetch("/").status == 200
