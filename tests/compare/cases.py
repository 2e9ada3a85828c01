"""What RFC 9110 and 9112 ask of a server of files and of a proxy, case by case.

A case has a request, and a function that says what is wrong with the reply ("" for nothing). `{etag}` and
`{last_modified}` in fields are those of the file. The file is `/file.txt`, 26 letters; `/dir/` has an index. The cases
of a proxy name what the upstream answers (recorder.py), and may look at what arrived there. Long because it is a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.compare.client import Reply
from tests.compare.recorder import Message

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
OLD, FUTURE = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 06 Nov 2054 08:49:37 GMT"


@dataclass(frozen=True)
class Files:
    """A case for a server of files."""

    name: str
    section: str
    check: Callable[[Reply], str]
    fields: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    path: str = "/file.txt"
    #: MUST of the RFC: a server that fails it is wrong. Otherwise servers may differ.
    must: bool = True


def status(*allowed: int) -> Callable[[Reply], str]:
    return lambda reply: "" if reply.status in allowed else f"{reply.said()}, not {' or '.join(map(str, allowed))}"


def part(content_range: str, body: bytes) -> Callable[[Reply], str]:
    def check(reply: Reply) -> str:
        if reply.status != 206:
            return f"{reply.said()}, not 206"
        if reply.get("content-range") != content_range:
            return f"content-range {reply.get('content-range')}, not {content_range}"
        return "" if reply.body == body else f"{reply.body!r}, not {body!r}"

    return check


def whole(reply: Reply) -> str:
    return "" if reply.status == 200 and reply.body == LETTERS else f"{reply.said()} with {len(reply.body)} bytes"


def empty(number: int) -> Callable[[Reply], str]:
    return lambda reply: (
        f"{reply.said()}, not {number}" if reply.status != number else "it has a body" if reply.body else ""
    )


def unsatisfiable(reply: Reply) -> str:
    if reply.status != 416:
        return f"{reply.said()}, not 416"
    return "" if reply.get("content-range") == "bytes */26" else f"content-range {reply.get('content-range')}"


def small(reply: Reply) -> str:
    if reply.status not in (200, 206, 416):
        return reply.said()
    return "" if len(reply.body) < 4096 else f"{len(reply.body)} bytes for 26"


def has(*names: str) -> Callable[[Reply], str]:
    def check(reply: Reply) -> str:
        missing = [name for name in names if reply.get(name) is None]
        return f"no {', '.join(missing)}" if missing or reply.status != 200 else ""

    return check


def allowed(reply: Reply) -> str:
    if reply.status not in (405, 501):
        return f"{reply.said()}, not 405 or 501"
    return "" if reply.status == 501 or reply.get("allow") else "405 without Allow"


def no_echo(reply: Reply) -> str:
    return "the request is in the answer" if b"x-secret" in reply.body.lower() else ""


def not_outside(reply: Reply) -> str:
    return "" if reply.status in (400, 403, 404) or reply.reset is not None else reply.said()


def directory(reply: Reply) -> str:
    where = reply.get("location") or ""
    if reply.status not in (301, 302, 307, 308):
        return reply.said()
    return "" if where.endswith("/dir/?q=1") else f"location {where}"


FILES: tuple[Files, ...] = (
    Files("GET has validators and ranges", "9110 8.8, 14.3", has("etag", "last-modified", "accept-ranges", "date")),
    Files("GET has the length", "9110 8.6", lambda r: "" if r.get("content-length") == "26" else "other length"),
    Files("HEAD has no body", "9110 9.3.2", empty(200), method="HEAD"),
    Files("HEAD has the length", "9110 9.3.2", has("content-length"), method="HEAD", must=False),
    Files("first bytes", "9110 14.1.2", part("bytes 0-4/26", b"abcde"), {"range": "bytes=0-4"}),
    Files("one byte", "9110 14.1.2", part("bytes 0-0/26", b"a"), {"range": "bytes=0-0"}),
    Files("from an offset", "9110 14.1.2", part("bytes 20-25/26", b"uvwxyz"), {"range": "bytes=20-"}),
    Files("last bytes", "9110 14.1.2", part("bytes 23-25/26", b"xyz"), {"range": "bytes=-3"}),
    Files("more last bytes than there are", "9110 14.1.2", part("bytes 0-25/26", LETTERS), {"range": "bytes=-99"}),
    Files("past the end", "9110 14.1.2", part("bytes 24-25/26", b"yz"), {"range": "bytes=24-99"}),
    Files("behind the end", "9110 15.5.17", unsatisfiable, {"range": "bytes=26-"}, must=False),
    Files("the last 0 bytes", "9110 14.1.2", unsatisfiable, {"range": "bytes=-0"}, must=False),
    Files("first above last", "9110 14.1.1", whole, {"range": "bytes=5-2"}),
    Files("no numbers", "9110 14.1.1", whole, {"range": "bytes=a-b"}),
    Files("an unknown unit", "9110 14.2", whole, {"range": "lines=1-2"}),
    Files("two ranges", "9110 14.6", status(200, 206), {"range": "bytes=0-1,4-5"}),
    Files(
        "two ranges are multipart",
        "9110 14.6",
        lambda r: "" if (r.get("content-type") or "").startswith("multipart/byteranges") else "not multipart",
        {"range": "bytes=0-1,900-901"},
        path="/large.txt",
        must=False,
    ),
    Files("many overlapping ranges", "9110 14.2", small, {"range": "bytes=" + ",".join(["0-"] * 500)}),
    Files("a range of HEAD", "9110 14.2", empty(200), {"range": "bytes=0-4"}, method="HEAD", must=False),
    Files(
        "If-Range with the ETag",
        "9110 13.1.5",
        part("bytes 0-1/26", b"ab"),
        {"range": "bytes=0-1", "if-range": "{etag}"},
    ),
    Files("If-Range with another ETag", "9110 13.1.5", whole, {"range": "bytes=0-1", "if-range": '"other"'}),
    Files("If-Range with a weak ETag", "9110 13.1.5", whole, {"range": "bytes=0-1", "if-range": "W/{etag}"}),
    Files("If-Range with an older date", "9110 13.1.5", whole, {"range": "bytes=0-1", "if-range": OLD}),
    Files("If-Range with a later date", "9110 13.1.5", whole, {"range": "bytes=0-1", "if-range": FUTURE}),
    Files("If-None-Match", "9110 13.1.2", empty(304), {"if-none-match": "{etag}"}),
    Files("If-None-Match with a weak ETag", "9110 13.1.2", empty(304), {"if-none-match": "W/{etag}"}),
    Files("If-None-Match in a list", "9110 13.1.2", empty(304), {"if-none-match": '"a", {etag}, "b"'}),
    Files("If-None-Match *", "9110 13.1.2", empty(304), {"if-none-match": "*"}),
    Files("If-None-Match of another", "9110 13.1.2", whole, {"if-none-match": '"other"'}),
    Files(
        "a 304 has the ETag", "9110 15.4.5", lambda r: "" if r.get("etag") else "no etag", {"if-none-match": "{etag}"}
    ),
    Files("If-Modified-Since", "9110 13.1.3", empty(304), {"if-modified-since": "{last_modified}"}),
    Files("If-Modified-Since later", "9110 13.1.3", empty(304), {"if-modified-since": FUTURE}),
    Files("If-Modified-Since earlier", "9110 13.1.3", whole, {"if-modified-since": OLD}),
    Files("If-Modified-Since is no date", "9110 13.1.3", whole, {"if-modified-since": "yesterday"}),
    Files(
        "If-None-Match before If-Modified-Since",
        "9110 13.2.2",
        whole,
        {"if-none-match": '"other"', "if-modified-since": "{last_modified}"},
    ),
    Files("If-Match", "9110 13.1.1", whole, {"if-match": "{etag}"}),
    Files("If-Match *", "9110 13.1.1", whole, {"if-match": "*"}),
    Files("If-Match of another", "9110 13.1.1", status(412), {"if-match": '"other"'}),
    Files("If-Match with a weak ETag", "9110 13.1.1", status(412), {"if-match": "W/{etag}"}),
    Files("If-Unmodified-Since earlier", "9110 13.1.4", status(412), {"if-unmodified-since": OLD}),
    Files("If-Unmodified-Since later", "9110 13.1.4", whole, {"if-unmodified-since": FUTURE}),
    Files("a 304 before a range", "9110 13.2.2", empty(304), {"if-none-match": "{etag}", "range": "bytes=0-1"}),
    Files("a file that is not there", "9110 15.5.5", status(404), path="/no-such-file"),
    Files("If-None-Match * without a file", "9110 13.1.2", status(404), {"if-none-match": "*"}, path="/no-such-file"),
    Files("HEAD without a file", "9110 9.3.2", empty(404), method="HEAD", path="/no-such-file"),
    Files("POST to a file", "9110 15.5.6", allowed, method="POST"),
    Files("DELETE of a file", "9110 15.5.6", allowed, method="DELETE"),
    Files("an unknown method", "9110 15.6.2", allowed, method="BREW"),
    Files("TRACE tells nothing", "9110 9.3.8", no_echo, {"x-secret": "x-secret"}, method="TRACE"),
    Files("OPTIONS", "9110 9.3.7", status(200, 204, 405, 501), method="OPTIONS"),
    Files("a folder without its slash", "9110 15.4", directory, path="/dir?q=1"),
    Files("the index of a folder", "-", status(200), path="/dir/"),
    Files("dots", "3986 5.2.4", not_outside, path="/../../etc/passwd"),
    Files("encoded dots", "3986 2.1", not_outside, path="/%2e%2e/%2e%2e/etc/passwd"),
    Files("encoded slashes", "3986 2.2", not_outside, path="/..%2f..%2fetc%2fpasswd"),
    Files("an encoded NUL", "-", not_outside, path="/file.txt%00.html"),
    Files("an invalid percent-encoding", "3986 2.1", not_outside, path="/%zz", must=False),
    Files("a query", "-", whole, path="/file.txt?x=1"),
    Files("encoded letters", "3986 6.2.2.2", whole, path="/%66ile.txt"),
    Files("identity is not acceptable", "9110 12.5.3", status(200, 406), {"accept-encoding": "identity;q=0"}),
    Files("an unknown expectation", "9110 10.1.1", status(200, 417), {"expect": "miracles"}),
    Files("another host", "9110 7.4", status(200, 400, 404, 421), {":authority": "other.test"}),
)


@dataclass(frozen=True)
class Proxied:
    """A case for a proxy: what the upstream answers, and what must arrive on either side."""

    name: str
    section: str
    answer: bytes
    check: Callable[[Reply], str]
    #: What is wrong with the request that arrived at the upstream.
    arrived: Callable[[Message], str] = lambda message: ""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    method: str = "GET"
    body: bytes | None = None
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    #: The upstream closes its connection afterwards.
    closes: bool = False
    must: bool = True


def _ok(*lines: bytes, body: bytes = b"ok") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"content-length: %d" % len(body), b"", body))


def _answer(number: int, body: bytes | None = None) -> Callable[[Reply], str]:
    def check(reply: Reply) -> str:
        if reply.status != number or not reply.ended:
            return f"{reply.said()}, not {number}"
        return "" if body is None or reply.body == body else f"body {reply.body[:40]!r}"

    return check


def _without(*names: str) -> Callable[[Reply], str]:
    def check(reply: Reply) -> str:
        there = [name for name in names if reply.get(name) is not None]
        return f"{', '.join(there)} was passed on" if there else _answer(200)(reply)

    return check


def _cut(reply: Reply) -> str:
    """A body that is incomplete must not look complete."""
    return f"{reply.said()} looks complete" if reply.ended and reply.status < 500 else ""


def _refused(reply: Reply) -> str:
    return "" if reply.status in (502, 504) or reply.reset is not None else f"{reply.said()}, not 502"


def _unfolded(reply: Reply) -> str:
    return "" if reply.status == 200 and (reply.get("x") or "").split() == ["a", "b"] else _refused(reply)


def _field_is(name: bytes, *values: bytes | None) -> Callable[[Message], str]:
    return lambda message: "" if message.get(name) in values else f"{name.decode()}: {message.get(name)!r} arrived"


def _joined(reply: Reply) -> str:
    cookies = [value for name, value in reply.fields if name == b"set-cookie"]
    return "" if cookies == [b"a=1", b"b=2"] else f"{cookies}"


PROXIED: tuple[Proxied, ...] = (
    Proxied("a response", "9110 7.6", _ok(), _answer(200, b"ok")),
    Proxied("Connection is not passed on", "9110 7.6.1", _ok(b"connection: keep-alive"), _without("connection")),
    Proxied(
        "fields named by Connection are not passed on",
        "9110 7.6.1",
        _ok(b"connection: x-hop, x-other", b"x-hop: 1", b"x-other: 2"),
        _without("x-hop", "x-other", "connection"),
    ),
    Proxied(
        "Keep-Alive, Proxy-Connection and Upgrade are not passed on",
        "9110 7.6.1",
        _ok(b"keep-alive: timeout=5", b"proxy-connection: close", b"upgrade: h2c"),
        _without("keep-alive", "proxy-connection", "upgrade"),
    ),
    Proxied(
        "a chunked body",
        "9112 7.1",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        _answer(200, b"hello world"),
    ),
    Proxied(
        "Transfer-Encoding is not passed on",
        "9114 4.2",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        _without("transfer-encoding"),
    ),
    Proxied(
        "chunk extensions are dropped",
        "9112 7.1.1",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
        _answer(200, b"ok"),
    ),
    Proxied(
        "trailers",
        "9110 6.5",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
        lambda r: "" if (b"x-sum", b"1") in r.trailers else "no trailer",
        must=False,
    ),
    Proxied(
        "a body to the end of the connection",
        "9112 6.3",
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
        _answer(200, b"to the end"),
        closes=True,
    ),
    Proxied("HTTP/1.0", "9112 2.6", b"HTTP/1.0 200 OK\r\n\r\nold", _answer(200, b"old"), closes=True),
    Proxied("204", "9110 15.3.5", b"HTTP/1.1 204 No Content\r\n\r\n", empty(204)),
    Proxied("304", "9110 15.4.5", b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\n\r\n', empty(304)),
    Proxied(
        "HEAD keeps the length",
        "9110 9.3.2",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        lambda r: empty(200)(r) or ("" if r.get("content-length") == "1000" else "no length"),
        method="HEAD",
    ),
    Proxied(
        "404 of the upstream", "-", b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone", _answer(404, b"gone")
    ),
    Proxied("500 of the upstream", "-", b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops", _answer(500, b"oops")),
    Proxied(
        "a status without a phrase", "9112 4", b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", _answer(200, b"ok")
    ),
    Proxied("an unknown status", "9110 15", b"HTTP/1.1 299 Hm\r\ncontent-length: 2\r\n\r\nok", _answer(299, b"ok")),
    Proxied(
        "103 is passed on",
        "8297 2",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n<pause>" + _ok(),
        lambda r: _answer(200)(r) or ("" if 103 in r.informational else "no 103"),
        must=False,
    ),
    Proxied("100 before the response", "9110 15.2", b"HTTP/1.1 100 Continue\r\n\r\n" + _ok(), _answer(200, b"ok")),
    Proxied("an unknown 1xx", "9110 15.2", b"HTTP/1.1 199 What\r\n\r\n" + _ok(), _answer(200, b"ok")),
    Proxied("Set-Cookie stays two lines", "9110 5.3", _ok(b"set-cookie: a=1", b"set-cookie: b=2"), _joined),
    Proxied("names become lower case", "9114 4.2", _ok(b"X-Mixed: Case"), lambda r: "" if r.get("x-mixed") else "lost"),
    Proxied("an empty value", "9110 5.5", _ok(b"x-empty:"), lambda r: "" if r.get("x-empty") == "" else "lost"),
    Proxied(
        "shorter than Content-Length",
        "9112 8",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        _cut,
        closes=True,
    ),
    Proxied(
        "chunks without an end",
        "9112 8",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        _cut,
        closes=True,
    ),
    Proxied(
        "an invalid chunk size",
        "9112 7.1",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
        _cut,
    ),
    Proxied(
        "a chunk that is longer than its size",
        "9112 7.1",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        _cut,
    ),
    Proxied(
        "two Content-Lengths that differ",
        "9112 6.3",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        _refused,
        closes=True,
    ),
    Proxied(
        "Content-Length with Transfer-Encoding",
        "9112 6.3",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        _refused,
        must=False,
    ),
    Proxied("no HTTP", "9112 4", b"SSH-2.0-OpenSSH\r\n\r\n", _refused, closes=True),
    Proxied("a status line without a status", "9112 4", b"HTTP/1.1 OK\r\n\r\n", _refused, closes=True),
    Proxied("a status of four digits", "9112 4", b"HTTP/1.1 2000 OK\r\n\r\n", _refused, closes=True),
    Proxied("NUL in a value", "9110 5.5", _ok(b"x: a\0b"), _refused, closes=True),
    Proxied("a space in a name", "9112 5.1", _ok(b"x y: 1"), _refused, closes=True),
    Proxied("a space before the colon", "9112 5.1", _ok(b"x : 1"), _refused, closes=True, must=False),
    Proxied("folding is refused, or becomes a space", "9112 5.2", _ok(b"x: a\r\n b"), _unfolded, closes=True),
    Proxied("endless fields", "-", b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 999) * 2000, _refused, closes=True),
    Proxied(
        "101 that was not asked for",
        "9110 15.2.2",
        b"HTTP/1.1 101 Sure\r\nupgrade: x\r\n\r\nraw",
        _refused,
        closes=True,
    ),
    Proxied("closed without a word", "9112 9.5", b"", _refused, closes=True),
    Proxied("closed within the head", "9112 8", b"HTTP/1.1 200 OK\r\nx: ", _refused, closes=True),
    # --- what arrives
    Proxied("Host is passed on", "9110 7.2", _ok(), _answer(200), lambda m: "" if m.get(b"host") else "no host"),
    Proxied(
        "X-Forwarded-For has the client only",
        "-",
        _ok(),
        _answer(200),
        _field_is(b"x-forwarded-for", b"127.0.0.1"),
        ((b"x-forwarded-for", b"192.0.2.1"),),
        must=False,
    ),
    Proxied(
        "X-Forwarded-Proto is https",
        "-",
        _ok(),
        _answer(200),
        _field_is(b"x-forwarded-proto", b"https"),
        ((b"x-forwarded-proto", b"http"),),
        must=False,
    ),
    Proxied(
        "cookies are one line",
        "9114 4.2.1",
        _ok(),
        _answer(200),
        _field_is(b"cookie", b"a=1; b=2"),
        ((b"cookie", b"a=1"), (b"cookie", b"b=2")),
    ),
    Proxied(
        "a body with its length",
        "9112 6.3",
        _ok(),
        _answer(200),
        lambda m: "" if m.body == b"body" else f"{m.body!r} arrived",
        ((b"content-length", b"4"),),
        "POST",
        b"body",
    ),
    Proxied(
        "a body without a length",
        "9112 6.3",
        _ok(),
        _answer(200),
        lambda m: "" if m.body == b"body" else f"{m.body!r} arrived",
        (),
        "POST",
        b"body",
    ),
    Proxied(
        "trailers of a request",
        "9110 6.5",
        _ok(),
        _answer(200),
        lambda m: "" if m.trailers == [(b"x-sum", b"1")] or not m.trailers else f"{m.trailers}",
        (),
        "POST",
        b"body",
        ((b"x-sum", b"1"),),
    ),
    Proxied(
        "an empty body has a length",
        "9110 8.6",
        _ok(),
        _answer(200),
        _field_is(b"content-length", b"0"),
        (),
        "POST",
        must=False,
    ),
    Proxied(
        "TE: trailers",
        "9110 10.1.4",
        _ok(),
        _answer(200),
        _field_is(b"te", b"trailers", None),
        ((b"te", b"trailers"),),
    ),
    Proxied("Via is added", "9110 7.6.3", _ok(), _answer(200), lambda m: "" if m.get(b"via") else "no via", must=False),
)
