"""A malformed request is an error of its stream: no handler gets any of it, and the connection stays open."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.engine_driver import Response, StockClient, World
from tests.support.h3_bytes import Field, frame, headers, request, section, varint
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]
H3_FRAME_UNEXPECTED, H3_FRAME_ERROR, H3_EXCESSIVE_LOAD = 0x105, 0x106, 0x107
H3_REQUEST_INCOMPLETE, H3_MESSAGE_ERROR, QPACK_DECOMPRESSION_FAILED = 0x10D, 0x10E, 0x200
GET = request()
CONNECT = [(b":method", b"CONNECT"), (b":authority", b"example.com:443")]
TUNNEL = [*request(b"/bytes/1", b"CONNECT"), (b":protocol", b"websocket")]
DATA, HEADERS = 0, 1


def send(w: World, client: StockClient, *pieces: bytes, fin: bool = True) -> Response:
    """Send a request in pieces that arrive one after the other."""
    stream_id = client.quic.get_next_available_stream_id()
    response = client.responses[stream_id] = Response(stream_id)
    for number, piece in enumerate(pieces, 1):
        if response.over or client.terminated is not None:
            break
        client.quic.send_stream_data(stream_id, piece, end_stream=fin and number == len(pieces))
        w.run(seconds=0.05)
    w.run(lambda: response.over or client.terminated is not None, seconds=5)
    return response


def without(name: bytes) -> list[Field]:
    return [field for field in GET if field[0] != name]


def post(*extra: Field, path: bytes = b"/count") -> list[Field]:
    return request(path, b"POST", extra=extra)


MALFORMED = {
    # Names (RFC 9110 section 5.1, RFC 9114 sections 4.2 and 10.3).
    "upper case": request(extra=[(b"X-Upper", b"1")]),
    "upper case in the middle": request(extra=[(b"x-uPper", b"1")]),
    **{
        f"{octet!r} in a name": request(extra=[(b"a" + bytes((octet,)) + b"b", b"1")])
        for octet in (*b'\0\t\n\r ()/:;<=>?@[]{}",\\', 0x7F, 0x80, 0xFF)
    },
    # Values (RFC 9110 section 5.5).
    **{
        f"{octet:#x} in a value": request(extra=[(b"a", b"x" + bytes((octet,)) + b"y")])
        for octet in (0x00, 0x01, 0x08, 0x0A, 0x0D, 0x1F, 0x7F)
    },
    "a value that begins with a space": request(extra=[(b"a", b" x")]),
    "a value that ends with a tab": request(extra=[(b"a", b"x\t")]),
    "a value of white space": request(extra=[(b"a", b" ")]),
    "a newline in a known field": request(extra=[(b"cookie", b"a\nb")]),
    "a newline in a user agent": request(extra=[(b"user-agent", b"a\r\nx: y")]),
    # Fields of one connection (RFC 9114 section 4.2).
    **{
        f"{name.decode()}: {value.decode()}": request(extra=[(name, value)])
        for name, value in (
            (b"connection", b"close"),
            (b"keep-alive", b"timeout=5"),
            (b"proxy-connection", b"close"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
            (b"te", b"gzip"),
            (b"te", b"trailers, gzip"),
            (b"te", b""),
        )
    },
    # Pseudo-headers (RFC 9114 sections 4.3 and 4.3.1).
    **{f"no {name.decode()}": without(name) for name in (b":method", b":scheme", b":path", b":authority")},
    **{f"{name.decode()} twice": [*GET, (name, value)] for name, value in GET},
    "nothing": [],
    "a pseudo-header after a field": [*GET[:3], (b"x", b"y"), GET[3]],
    "an unknown pseudo-header": [*GET, (b":other", b"x")],
    "a colon alone": [*GET, (b":", b"x")],
    ":status in a request": [*GET, (b":status", b"200")],
    ":Method": [(b":Method", b"GET"), *GET[1:]],
    # Extended CONNECT (RFC 8441 section 4, RFC 9220 section 3).
    ":protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
    ":protocol twice": [*TUNNEL, TUNNEL[-1]],
    ":protocol in CONNECT without a scheme and a path": [*CONNECT, TUNNEL[-1]],
    **{f"extended CONNECT without {name.decode()}": [f for f in TUNNEL if f[0] != name] for name, _ in TUNNEL[1:4]},
    **{
        f":protocol {value!r}": [*TUNNEL[:4], (b":protocol", value)]
        for value in (b"", b"web socket", b"a/b", b"a,b", b" websocket", b"a\r", b"\x80")
    },
    "extended CONNECT to *": [*TUNNEL[:3], (b":path", b"*"), TUNNEL[4]],
    "extended CONNECT with a length": [*TUNNEL, (b"content-length", b"0")],
    "extended CONNECT with upgrade": [*TUNNEL, (b"upgrade", b"websocket")],
    **{f":method {value!r}": request(method=value) for value in (b"", b"G ET", b"GET\r", b"GET\0", b"G:T", b"G\x80T")},
    **{f":scheme {value!r}": request(scheme=value) for value in (b"", b"1https", b"ht tp", b"https:", b"h\0")},
    # RFC 9114 section 4.3.1, RFC 3986 section 3.2.
    **{
        f":authority {value!r}": request(authority=value)
        for value in (
            *(
                b"",
                b"joe@localhost",
                b"joe:secret@localhost",
                b"localhost/x",
                b"local host",
                b" localhost",
                b"localhost ",
            ),
            *(b"localhost:x", b"localhost:123456", b"a:1:2", b":443", b"a?b", b"a#b", b"a\\b", b"a\0b"),
            *(
                b"[::1",
                b"::1]",
                b"[]",
                b"[::1]x",
                b"[fe80::1%25eth0]",
                b"a%4",
                b"a%zz",
                b"a\x80",
                b"a,b/c",
                b"https://a",
            ),
        )
    },
    "a host that is none": [*without(b":authority"), (b"host", b"a/b")],
    "an empty host": [*without(b":authority"), (b"host", b"")],
    "another host": request(extra=[(b"host", b"example.com")]),
    "host twice": [*without(b":authority"), (b"host", b"localhost"), (b"host", b"localhost")],
    "host in upper case beside :authority": request(extra=[(b"host", b"LOCALHOST")]),
    **{
        f":path {value!r}": request(value)
        for value in (
            *(
                b"",
                b"bytes/10",
                b"?x",
                b"*",
                b"/a#x",
                b"/#",
                b"/a b",
                b" /a",
                b"/a ",
                b"/a\0",
                b"/a\n",
                b"/a\t",
                b"/a\x7f",
            ),
            *(b"https://localhost/", b".", b"\\bytes"),
        )
    },
    "OPTIONS without a slash": request(b"x", b"OPTIONS"),
    "OPTIONS **": request(b"**", b"OPTIONS"),
    # CONNECT (RFC 9114 section 4.4).
    "CONNECT with a scheme and a path": request(method=b"CONNECT"),
    "CONNECT with an empty path": [*CONNECT, (b":path", b"")],
    "CONNECT with an empty scheme": [*CONNECT, (b":scheme", b"")],
    "CONNECT without an authority": CONNECT[:1],
    "CONNECT with host": [CONNECT[0], (b"host", b"example.com:443")],
    "CONNECT without a port": [CONNECT[0], (b":authority", b"example.com")],
    "CONNECT with an empty port": [CONNECT[0], (b":authority", b"example.com:")],
    # Content-Length (RFC 9110 section 8.6).
    **{
        f"content-length {value!r}": post((b"content-length", value))
        for value in (b"", b"-1", b"+3", b"3a", b"3, 3", b"0x3", b"1" * 19, b"18446744073709551619", b"3.0")
    },
    "content-length twice, different": post((b"content-length", b"3"), (b"content-length", b"4")),
    "content-length twice, the same": post((b"content-length", b"0"), (b"content-length", b"0")),
    "content-length and nothing": post((b"content-length", b"5")),
    "content-length of a GET and nothing": request(extra=[(b"content-length", b"5")]),
}


def test_a_malformed_request_is_an_error_of_its_stream(world: Make) -> None:
    """All of them on one connection, which stays open."""
    w = world()
    client = w.ready()
    for number, (name, fields) in enumerate(MALFORMED.items(), 1):
        response = send(w, client, headers(fields))
        assert (response.reset, client.terminated) == (H3_MESSAGE_ERROR, None), name
        assert w.counters()["glitches"] == number, name
    assert w.app.requests == []
    assert client.fetch("/bytes/1").status == 200


def test_a_field_without_a_name_reaches_no_handler(world: Make) -> None:
    """pylsqpack accepts none: on the portable engine it is an error of QPACK."""
    w = world()
    client = w.ready()
    response = send(w, client, headers(request(extra=[(b"", b"1")])))
    if w.engine.name == "portable":
        assert client.terminated.error_code == QPACK_DECOMPRESSION_FAILED
    else:
        assert (response.reset, client.terminated) == (H3_MESSAGE_ERROR, None)
    assert w.app.requests == []


SOUND = {
    "host in the place of :authority": [*without(b":authority"), (b"host", b"velocity.test")],
    ":authority and the same host": request(extra=[(b"host", b"localhost")]),
    "te: trailers": request(extra=[(b"te", b"trailers")]),
    "te: Trailers": request(extra=[(b"te", b"Trailers")]),
    "every character of a name": request(extra=[(b"!#$%&'*+-.^_`|~09az", b"1")]),
    "text that is not ASCII": request(extra=[(b"a", b"caf\xe9 \xf0\x9f\x8d\xb0")]),
    "spaces and tabs within a value": request(extra=[(b"a", b"x \t y")]),
    "an empty value": request(extra=[(b"a", b"")]),
    "no content by length": request(extra=[(b"content-length", b"0")]),
    "a length with zeros before it": request(extra=[(b"content-length", b"000")]),
    "pseudo-headers in another order": [GET[3], GET[2], GET[0], GET[1]],
    "a scheme in upper case": request(scheme=b"HTTPS"),
    **{
        f":authority {value!r}": request(authority=value)
        for value in (
            b"a.example",
            b"A.Example:443",
            b"[::1]",
            b"[2001:db8::1]:443",
            b"127.0.0.1:1",
            b"a%20b",
            b"a:",
            b"x_y~z!",
        )
    },
    **{
        f":path {value!r}": request(b"/bytes/10?" + value)
        for value in (b"", b"a=b%20c", b'a|b[c]{d}^`"<>', b"?", b"\xc3\xa4")
    },
}


def test_an_unusual_but_valid_request_is_served(world: Make) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 200, [], b"ok")
    for name, fields in SOUND.items():
        assert send(w, client, headers(fields)).status == 200, name
        event = w.app.requests[-1]
        assert list(event.headers) == [field for field in fields if not field[0].startswith(b":")]
        sent = dict(fields)
        assert (event.method, event.scheme, event.path) == (sent[b":method"], sent[b":scheme"], sent[b":path"])
        assert event.authority == sent.get(b":authority", sent.get(b"host"))
    assert client.terminated is None


@pytest.mark.parametrize("fields", [CONNECT, request(b"*", b"OPTIONS"), request(method=b"get"), request(method=b"FOO")])
def test_unknown_methods_reach_the_handler(world: Make, fields: list[Field]) -> None:
    w = world()
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 405, [], b"")
    assert send(w, client, headers(fields)).status == 405


# --- bodies and trailers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "frames"),
    [
        (b"3", [b"four"]),
        (b"0", [b"x"]),
        (b"5", [b"abc"]),
        (b"5", []),
        (b"5", [b""]),
        (b"5", [b"abc", b"d"]),
        (b"5", [b"abc", b"def"]),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_a_body_that_contradicts_content_length_is_a_stream_error(
    world: Make, length: bytes, frames: list[bytes], split: bool
) -> None:
    w = world()
    client = w.ready()
    pieces = [headers(post((b"content-length", length))), *(frame(DATA, data) for data in frames)]
    response = send(w, client, *pieces, b"") if split else send(w, client, b"".join(pieces))
    assert (response.reset, response.status, client.terminated) == (H3_MESSAGE_ERROR, 0, None)
    assert not w.app.ended
    assert client.fetch("/bytes/1").status == 200


@pytest.mark.parametrize("length", [b"3", b"003"])
def test_a_body_that_matches_content_length_is_accepted(world: Make, length: bytes) -> None:
    w = world()
    client = w.ready()
    body = frame(DATA, b"ab") + frame(DATA) + frame(DATA, b"c")
    response = send(w, client, headers(post((b"content-length", length))) + body)
    assert (response.status, response.body) == (200, b"3")


BAD_TRAILERS: dict[str, list[Field]] = {
    "a pseudo-header": [(b":path", b"/")],
    "an unknown pseudo-header": [(b":x", b"/")],
    "upper case": [(b"X-Sum", b"1")],
    "a newline in a name": [(b"a\nb", b"1")],
    "a NUL in a value": [(b"a", b"x\0")],
    **{
        name.decode(): [(name, b"x")]
        for name in (
            *(b"connection", b"transfer-encoding", b"upgrade", b"te", b"content-length", b"host", b"authorization"),
            *(b"content-type", b"content-encoding", b"content-range", b"trailer", b"cookie", b"expect", b"range"),
        )
    },
}


def test_malformed_trailers_are_an_error_of_the_stream(world: Make) -> None:
    w = world()
    client = w.ready()
    for name, fields in BAD_TRAILERS.items():
        response = send(w, client, headers(post()) + frame(DATA, b"x") + headers(fields))
        assert (response.reset, client.terminated) == (H3_MESSAGE_ERROR, None), name
    assert not w.app.ended
    assert client.fetch("/bytes/1").status == 200


@pytest.mark.parametrize("fields", [[], [(b"x-sum", b"1")], [(b"x-sum", b"1"), (b"x-sum", b"")]])
@pytest.mark.parametrize("body", [b"", b"abc"])
@pytest.mark.parametrize("last", [b"", frame(0x21, b"grease")])
def test_trailers_end_a_request(world: Make, fields: list[Field], body: bytes, last: bytes) -> None:
    w = world()
    client = w.ready()
    response = send(w, client, headers(post()) + frame(DATA, body) + headers(fields) + last)
    assert (response.status, response.body, client.terminated) == (200, b"%d" % len(body), None)


# --- sections that are too large --------------------------------------------------------------------------------------


def large(n_bytes: int, **options: bytes) -> bytes:
    """A request whose field section has about this many bytes."""
    return headers([*request(**options), *((b"x-%d" % n, b"v" * 200) for n in range(n_bytes // 240))])


@pytest.mark.parametrize("split", [False, True])
def test_fields_above_the_limit_are_reported_as_too_large_without_content(world: Make, split: bool) -> None:
    w = world(limits=Limits(max_field_section_bytes=4096))
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 431 if event.fields_too_large else 200, [], b"")
    assert send(w, client, large(3000)).status == 200
    for n_bytes in (5000, 14_000):
        part = large(n_bytes)
        response = send(w, client, *((part[:700], part[700:2000], part[2000:]) if split else (part,)))
        assert (response.status, response.reset) == (431, None)
        event = w.app.requests[-1]
        assert (event.method, event.headers, event.path) == (b"GET", [], b"")
    assert send(w, client, large(20_000)).reset == H3_EXCESSIVE_LOAD
    # One byte on the wire, 76 bytes as a field: counted as decoded.
    indexed = b"\0\0\xd1\xd7\xc1\x50\x09localhost" + b"\xff\x16" * 600
    assert send(w, client, frame(HEADERS, indexed)).reset == H3_EXCESSIVE_LOAD
    assert send(w, client, headers(request(extra=[(b"n" * 300, b"")]))).reset == H3_EXCESSIVE_LOAD
    assert client.terminated is None
    assert len(w.app.requests) == 3


def test_many_small_fields_are_too_large(world: Make) -> None:
    """Each costs 32 bytes beside its own (RFC 9114 section 4.2.2), so the limit of bytes is one of numbers, too."""
    w = world()
    client = w.ready()
    w.app.handler = lambda event: w.engine.respond(event.stream, 431 if event.fields_too_large else 200, [], b"")
    for count, status in ((400, 200), (500, 431), (1900, 431)):
        assert send(w, client, headers([*request(), *[(b"a", b"")] * count])).status == status, count
        assert len(w.app.requests[-1].headers) == (count if status == 200 else 0)
    assert send(w, client, headers([*request(), *[(b"a", b"")] * 2000])).reset == H3_EXCESSIVE_LOAD
    assert client.terminated is None


def test_a_request_that_is_too_large_and_malformed_is_malformed(world: Make) -> None:
    w = world(limits=Limits(max_field_section_bytes=1024))
    client = w.ready()
    fields = [*request(), *((b"x-%d" % n, b"v" * 200) for n in range(8)), (b"X", b"1")]
    assert send(w, client, headers(fields)).reset == H3_MESSAGE_ERROR
    assert w.app.requests == []


def test_trailers_above_the_limit_are_refused(world: Make) -> None:
    w = world(limits=Limits(max_field_section_bytes=1024))
    client = w.ready()
    trailers = headers([(b"x-%d" % n, b"v" * 200) for n in range(6)])
    assert send(w, client, headers(post()) + frame(DATA, b"x") + trailers).reset == H3_EXCESSIVE_LOAD
    assert client.fetch("/bytes/1").status == 200


# --- frames of a request stream ---------------------------------------------------------------------------------------

H, P, D = headers(GET), headers(post()), frame(DATA, b"x")


@pytest.mark.parametrize("pieces", [[b""], [frame(0x21, b"grease"), b""], [frame(0x21), b""], [frame(0x40, b"abc")]])
def test_a_stream_that_ends_without_a_request_is_an_error_of_the_stream(world: Make, pieces: list[bytes]) -> None:
    w = world()
    client = w.ready()
    response = send(w, client, *pieces)
    assert (response.reset, client.terminated) == (H3_REQUEST_INCOMPLETE, None)
    assert client.fetch("/bytes/1").status == 200


@pytest.mark.parametrize(
    ("bytes_", "error"),
    [
        (D + H, H3_FRAME_UNEXPECTED),
        (frame(DATA) + H, H3_FRAME_UNEXPECTED),
        (P + D + headers([]) + D, H3_FRAME_UNEXPECTED),
        (P + D + headers([]) + frame(DATA), H3_FRAME_UNEXPECTED),
        (P + D + headers([]) + headers([]), H3_FRAME_UNEXPECTED),
        *((frame(kind, b"\0") + H, H3_FRAME_UNEXPECTED) for kind in (2, 3, 4, 5, 6, 7, 8, 9, 0xD, 0xF0700, 0xF0701)),
        *((P + frame(kind), H3_FRAME_UNEXPECTED) for kind in (2, 3, 4, 5, 6, 7, 8, 9, 0xD, 0xF0700, 0xF0701)),
        (H[:-5], H3_FRAME_ERROR),
        (P + frame(DATA, b"x" * 100)[:-5], H3_FRAME_ERROR),
        (P + b"\x00\x40", H3_FRAME_ERROR),
        (P + b"\x40", H3_FRAME_ERROR),
        (P + b"\x00", H3_FRAME_ERROR),
        (P + varint(0x21) + varint(10) + b"abc", H3_FRAME_ERROR),
        (frame(HEADERS), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\2\0\xd1\xd7\xc1"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\x80\xd1\xd7\xc1"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\0\xd1\xd7\xc1\x80"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\0\xd1\xd7\xc1\x10"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\0\xd1\xd7\xc1\xff\x24"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\0\xd1\xd7\xc1\xff" + b"\x80" * 12 + b"\1"), QPACK_DECOMPRESSION_FAILED),
        (frame(HEADERS, b"\0\0\xd1\xd7\xc1\x23foo\x81\x00"), QPACK_DECOMPRESSION_FAILED),
        (P + D + frame(HEADERS), QPACK_DECOMPRESSION_FAILED),
    ],
)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_a_framing_error_closes_the_connection(world: Make, bytes_: bytes, error: int, byte_by_byte: bool) -> None:
    w = world()
    client = w.ready()
    pieces = [bytes_[n : n + 1] for n in range(len(bytes_))] if byte_by_byte else [bytes_]
    send(w, client, *pieces[:-1], pieces[-1])
    assert client.terminated is not None
    assert client.terminated.error_code == error
    assert w.ready().fetch("/bytes/1").status == 200


def test_a_request_may_come_byte_by_byte(world: Make) -> None:
    w = world()
    client = w.ready()
    whole = frame(0x21, b"a" * 70) + P + frame(0x40) + D + frame(DATA) + frame(0x21 + 0x1F * 3, b"x") + D + headers([])
    response = send(w, client, *(whole[n : n + 1] for n in range(len(whole))))
    assert (response.status, response.body) == (200, b"2")
    fields = section(GET)
    long = b"\xc0\0\0\0\0\0\0\1" + b"\x80\0\0" + bytes((len(fields),)) + fields
    assert send(w, client, long).status == 200
