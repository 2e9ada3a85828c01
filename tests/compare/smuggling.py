"""Requests by which one request can become two behind a proxy, or carry bytes that HTTP/1.1 reads otherwise.

A case is a field section, perhaps with a body and trailers, of which RFC 9114 (sections 4.1.2, 4.2, 4.3, 10.3) says
that it is malformed, or of which a naive translation to HTTP/1.1 would be. `must_refuse`: no answer but an error may
come back, and nothing may reach an upstream. The others may be forwarded, but only as exactly one clean request
(recorder.py). Every case has a path of its own, so that what arrives can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.h3_bytes import Field


@dataclass(frozen=True)
class Case:
    name: str
    fields: list[Field]
    body: bytes | None = None
    trailers: list[Field] | None = None
    must_refuse: bool = True


_Build = Callable[[bytes], Case]
INNER = b"GET /smuggled HTTP/1.1\r\nhost: proxied.test\r\n\r\n"


def _base(path: bytes, method: bytes = b"GET") -> list[Field]:
    return [(b":method", method), (b":scheme", b"https"), (b":authority", b"proxied.test"), (b":path", path)]


def cases() -> Iterator[Case]:
    """Yield every case; the path is /s/NUMBER."""
    for number, (name, build) in enumerate(_all()):
        path = b"/s/%d" % number
        case = build(path)
        yield Case(name, case.fields, case.body, case.trailers, case.must_refuse)


def _field(name: bytes, value: bytes, *, refuse: bool = True) -> _Build:
    return lambda path: Case("", [*_base(path), (name, value)], must_refuse=refuse)


def _pseudo(position: int, value: bytes, *, refuse: bool = True) -> _Build:
    def build(path: bytes) -> Case:
        fields = _base(path)
        fields[position] = (fields[position][0], value.replace(b"PATH", path))
        return Case("", fields, must_refuse=refuse)

    return build


def _lines(*extra: Field, method: bytes = b"GET", body: bytes | None = None, refuse: bool = True) -> _Build:
    return lambda path: Case("", [*_base(path, method), *extra], body, must_refuse=refuse)


def _trailer(*trailers: Field, refuse: bool = True) -> _Build:
    return lambda path: Case("", _base(path, b"POST"), b"body", list(trailers), refuse)


def _all() -> Iterator[tuple[str, _Build]]:
    # --- names of fields: a token in lower case
    for label, name in {
        "a space": b"x y",
        "a space at the end": b"x-name ",
        "a colon": b"x:y",
        "CRLF and a request": b"x\r\n\r\n" + INNER,
        "a line feed": b"x\ny",
        "a carriage return": b"x\ry",
        "NUL": b"x\0y",
        "a tab": b"x\ty",
        "DEL": b"x\x7f",
        "0x80": b"x\x80",
        "a capital letter": b"X-Name",
        "a capital Transfer-Encoding": b"Transfer-Encoding",
        "nothing": b"",
        "a quotation mark": b'x"y',
        "a slash": b"x/y",
        "brackets": b"x[0]",
    }.items():
        yield f"field name with {label}", _field(name, b"chunked" if b"Transfer" in name else b"v")
    # --- values of fields
    for label, value in {
        "CRLF and a field": b"a\r\ntransfer-encoding: chunked",
        "CRLF CRLF and a request": b"a\r\n\r\n" + INNER,
        "a line feed": b"a\nb",
        "a carriage return": b"a\rb",
        "NUL": b"a\0b",
        "another control character": b"a\x01b",
        "DEL": b"a\x7fb",
        "a space before it": b" a",
        "a space after it": b"a ",
        "a tab before it": b"\ta",
        "folding": b"a\r\n b",
    }.items():
        yield f"field value with {label}", _field(b"x-value", value)
    # --- pseudo-header fields
    for label, value in {
        "with a space": b"GET /x",
        "with CRLF": b"GET /x HTTP/1.1\r\nx: ",
        "empty": b"",
        "with a colon": b"GE:T",
        "with NUL": b"GET\0",
        "with a slash": b"GET/",
    }.items():
        yield f":method {label}", _pseudo(0, value)
    yield ":method in lower case", _pseudo(0, b"get", refuse=False)
    for label, value in {"with CRLF": b"https\r\nx: y", "empty": b"", "with a space": b"ht tp"}.items():
        yield f":scheme {label}", _pseudo(1, value)
    for label, value in {
        "with CRLF and a field": b"proxied.test\r\nx-injected: 1",
        "with user information": b"user@proxied.test",
        "with a path": b"proxied.test/x",
        "with a space": b"proxied test",
        "empty": b"",
        "with two names": b"proxied.test, evil.test",
        "with a query": b"proxied.test?x",
        "with a fragment": b"proxied.test#x",
        "with a backslash": b"proxied.test\\evil",
        "with NUL": b"proxied.test\0",
        "with a port that is no number": b"proxied.test:x",
    }.items():
        yield f":authority {label}", _pseudo(2, value)
    for label, value in {
        "with a space and a version": b"PATH HTTP/1.1",
        "with CRLF and a request": b"PATH HTTP/1.1\r\nhost: x\r\n\r\n" + INNER,
        "with a line feed": b"PATH\nx",
        "with NUL": b"PATH\0",
        "with a tab": b"PATH\tx",
        "with a space": b"PATH x",
        "empty": b"",
        "without a slash": b"x",
        "that is absolute": b"https://evil.test/x",
        "with a fragment": b"PATH#x",
        "an asterisk": b"*",
    }.items():
        yield f":path {label}", _pseudo(3, value)
    yield ":path with CRLF percent-encoded", _pseudo(3, b"PATH%0d%0ax:%20y", refuse=False)
    yield ":path with two slashes", _pseudo(3, b"/PATH", refuse=False)
    yield ":path with dots", _pseudo(3, b"PATH/../dots", refuse=False)
    yield "two :path", lambda path: Case("", [*_base(path), (b":path", b"/smuggled")])
    yield "two :method", lambda path: Case("", [(b":method", b"POST"), *_base(path)])
    yield "two :authority", lambda path: Case("", [*_base(path), (b":authority", b"evil.test")])
    yield ":path after a field", lambda path: Case("", [*_base(path)[:3], (b"x", b"y"), (b":path", path)])
    yield "an unknown pseudo-header field", lambda path: Case("", [*_base(path), (b":extra", b"x")])
    yield ":status in a request", lambda path: Case("", [*_base(path), (b":status", b"200")])
    yield ":protocol without CONNECT", lambda path: Case("", [*_base(path), (b":protocol", b"websocket")])
    yield "no :method", lambda path: Case("", _base(path)[1:])
    yield "no :path", lambda path: Case("", _base(path)[:3])
    yield "no :scheme", lambda path: Case("", [_base(path)[0], *_base(path)[2:]])
    # --- host
    yield "Host and :authority differ", _lines((b"host", b"evil.test"))
    yield "two Host fields", _lines((b"host", b"proxied.test"), (b"host", b"evil.test"))
    yield (
        "no :authority and no Host",
        lambda path: Case("", [field for field in _base(path) if field[0] != b":authority"]),
    )
    # --- fields of a connection (RFC 9114 section 4.2)
    for name, value in (
        (b"connection", b"close"),
        (b"connection", b"x-forwarded-for"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, chunked"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b"\x0bchunked"),
        (b"transfer-encoding", b"gzip, chunked"),
    ):
        yield (
            f"{name.decode()}: {value.decode('latin-1')!r}",
            _lines((name, value), method=b"POST", body=b"0\r\n\r\n" + INNER),
        )
    # --- content-length
    for label, value in {
        "a sign": b"+4",
        "a minus": b"-4",
        "hexadecimal": b"0x4",
        "a list": b"4, 4",
        "a list of two": b"4, 8",
        "spaces": b"4 4",
        "letters": b"4x",
        "empty": b"",
        "huge": b"9" * 30,
        "a line feed": b"4\n",
    }.items():
        yield f"content-length with {label}", _lines((b"content-length", value), method=b"POST", body=b"body")
    yield (
        "two content-lengths that differ",
        _lines((b"content-length", b"4"), (b"content-length", b"40"), method=b"POST", body=b"body"),
    )
    yield (
        "two content-lengths that agree",
        _lines((b"content-length", b"4"), (b"content-length", b"4"), method=b"POST", body=b"body"),
    )
    yield (
        "content-length shorter than the body",
        _lines((b"content-length", b"4"), method=b"POST", body=b"body" + INNER),
    )
    yield "content-length longer than the body", _lines((b"content-length", b"400"), method=b"POST", body=b"body")
    yield (
        "content-length with transfer-encoding",
        _lines(
            (b"content-length", b"4"), (b"transfer-encoding", b"chunked"), method=b"POST", body=b"0\r\n\r\n" + INNER
        ),
    )
    # --- bodies that look like framing
    yield "a body that ends chunks", _lines(method=b"POST", body=b"0\r\n\r\n" + INNER, refuse=False)
    yield "a GET whose body is a request", _lines(method=b"GET", body=INNER, refuse=False)
    yield "a HEAD with a body", _lines(method=b"HEAD", body=INNER, refuse=False)
    yield "a DELETE with a body", _lines(method=b"DELETE", body=INNER, refuse=False)
    # --- trailers (RFC 9110 section 6.5.1)
    for name, value in (
        (b"content-length", b"4"),
        (b"transfer-encoding", b"chunked"),
        (b"host", b"evil.test"),
        (b":path", b"/smuggled"),
        (b"x-trailer", b"a\r\n\r\n" + INNER),
        (b"X-Trailer", b"a"),
        (b"x\r\ny", b"a"),
        (b"connection", b"x"),
    ):
        # A proxy that does not pass trailers on may ignore them.
        yield f"trailer {name!r}: {value[:12]!r}", _trailer((name, value), refuse=False)
    yield "a trailer that may be", _trailer((b"x-checksum", b"1"), refuse=False)
    # --- fields that an upstream would trust
    yield "x-forwarded-for of the client", _lines((b"x-forwarded-for", b"127.0.0.1"), refuse=False)
    yield "forwarded of the client", _lines((b"forwarded", b"for=127.0.0.1;proto=http"), refuse=False)
    yield "x-forwarded-host of the client", _lines((b"x-forwarded-host", b"evil.test"), refuse=False)
    yield "a name with an underscore", _lines((b"x_forwarded_for", b"127.0.0.1"), refuse=False)
    yield "expect of something unknown", _lines((b"expect", b"200-ok"), refuse=False)
