"""Upstreams that misbehave, as data: what each sends, and how a request to it may end. For every client of upstreams.

The path of a request names the case. An end is one of three: the response came to its end (`COMPLETE`), there was none
(`REFUSED`: 502 or 504 for whoever asked), or it was cut after its head (`CUT`: the stream of whoever asked is reset).
Where RFC 9112 leaves a choice, more than one end is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.support.scripted_upstream import CLOSE, NEXT, RESET, ScriptedUpstream, Step, flood, pause, send

COMPLETE, REFUSED, CUT = "complete", "refused", "cut"

#: Much more than any limit of a head, and as much as a test may send in a moment.
_MUCH: Final = 8 * 1024 * 1024
_FOREVER_S: Final = 60.0

_OK: Final = b"HTTP/1.1 200 OK\r\n"
LENGTH: Final = _OK + b"Content-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world"
CHUNKED: Final = (
    _OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\nX-Sum: 12\r\nX-More: 1\r\n\r\n"
)
HINTED: Final = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH


@dataclass(frozen=True)
class Case:
    """One way to misbehave."""

    name: str
    steps: Sequence[Step]
    ends: frozenset[str]
    #: What passes when the end is COMPLETE.
    body: bytes | None = None


def case(name: str, steps: Sequence[Step] | bytes, *ends: str, body: bytes | None = None) -> Case:
    if isinstance(steps, bytes):
        # A server that closes after a whole response races with the next request on that connection.
        steps = [send(steps), NEXT if COMPLETE in ends else CLOSE]
    return Case(name, steps, frozenset(ends), body)


def _every_byte() -> list[Case]:
    """Each response ended by FIN and by RST after each of its bytes."""
    cases = []
    for name, whole in (("length", LENGTH), ("chunked", CHUNKED), ("hinted", HINTED)):
        head = whole.index(b"\r\n\r\n", whole.index(b"200 OK")) + 4
        for n in range(len(whole)):
            end = CUT if n >= head else REFUSED
            cases.append(case(f"closed-{name}-{n}", [send(whole[:n]), CLOSE], end))
            # A reset may overtake the bytes before it.
            cases.append(case(f"reset-{name}-{n}", [send(whole[:n]), RESET], end, REFUSED))
    return cases


def _heads(*bad: tuple[str, bytes]) -> list[Case]:
    """Heads that are refused: everything but the line in question is right."""
    return [case(name, _OK + line + b"\r\nContent-Length: 0\r\n\r\n", REFUSED) for name, line in bad]


def _statuses(*bad: tuple[str, bytes]) -> list[Case]:
    return [case(f"status-{name}", line + b"\r\nContent-Length: 0\r\n\r\n", REFUSED) for name, line in bad]


def _lengths(*bad: tuple[str, bytes]) -> list[Case]:
    return [case(f"length-{name}", _OK + fields + b"\r\n\r\nhello", REFUSED) for name, fields in bad]


def _chunks(*bad: tuple[str, bytes]) -> list[Case]:
    chunked = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
    return [case(f"chunk-{name}", chunked + body, REFUSED, CUT) for name, body in bad]


#: Never quick: each ends by a time-out of the client's pool.
SLOW: Final = [
    case("silent", [pause(_FOREVER_S)], REFUSED),
    case("half-a-head", [send(LENGTH[:30]), pause(_FOREVER_S)], REFUSED),
    case(
        "head-byte-by-byte", [step for n in range(40) for step in (send(_OK[n % 17 : n % 17 + 1]), pause(0.1))], REFUSED
    ),
    case("half-a-body", [send(LENGTH[:-5]), pause(_FOREVER_S)], CUT),
    case("half-a-chunk", [send(CHUNKED[:60]), pause(_FOREVER_S)], CUT),
    case("no-trailers", [send(CHUNKED[:-4]), pause(_FOREVER_S)], CUT),
    case("hints-and-silence", [send(HINTED[:60]), pause(_FOREVER_S)], REFUSED),
]

#: More than a client may keep.
ENDLESS: Final = [
    case("endless-status-line", [send(b"HTTP/1.1 200 "), flood(b"x", _MUCH), CLOSE], REFUSED),
    case("endless-field", [send(_OK + b"x: "), flood(b"y", _MUCH), CLOSE], REFUSED),
    case("endless-name", [send(_OK), flood(b"y", _MUCH), CLOSE], REFUSED),
    case("endless-fields", [send(_OK), flood(b"x: y\r\n", _MUCH), CLOSE], REFUSED),
    case("many-fields", _OK + b"x: y\r\n" * 2000 + b"Content-Length: 0\r\n\r\n", REFUSED),
    case("large-head", _OK + b"x: " + b"y" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n", REFUSED),
    case("endless-hints", [flood(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", _MUCH), CLOSE], REFUSED),
    case("endless-continue", [flood(b"HTTP/1.1 100 Continue\r\n\r\n", _MUCH), CLOSE], REFUSED),
    case(
        "endless-chunk-line",
        [send(_OK + b"Transfer-Encoding: chunked\r\n\r\n5;"), flood(b"x", _MUCH), CLOSE],
        REFUSED,
        CUT,
    ),
    case("endless-trailers", [send(CHUNKED[:-4]), flood(b"\r\nx: y", _MUCH), CLOSE], REFUSED, CUT),
    case("endless-empty-lines", [flood(b"\r\n", _MUCH), CLOSE], REFUSED),
]

INVALID: Final = [
    *_heads(
        ("space-before-colon", b"x : y"),
        ("space-first", b" x: y"),
        ("no-colon", b"xy"),
        ("no-name", b": y"),
        ("nul", b"x: a\0b"),
        ("lone-cr", b"x: a\rb: c"),
        ("name-with-high-byte", b"x\x80: y"),
        ("name-with-quote", b'x"y: z'),
        ("control", b"x: a\x01b"),
        ("gzip-coding", b"Transfer-Encoding: gzip"),
        ("identity-coding", b"Transfer-Encoding: identity"),
        ("unknown-coding", b"Transfer-Encoding: xchunked"),
        ("chunked-with-length", b"Transfer-Encoding: chunked"),
        ("coding-twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked-twice", b"Transfer-Encoding: chunked, chunked"),
        ("coding-in-tabs", b"Transfer-Encoding:\tchunked"),
        ("chunked-not-last", b"Transfer-Encoding: chunked, gzip"),
    ),
    *_statuses(
        ("two-digits", b"HTTP/1.1 20 OK"),
        ("four-digits", b"HTTP/1.1 2000 OK"),
        ("letters", b"HTTP/1.1 abc OK"),
        ("negative", b"HTTP/1.1 -20 OK"),
        ("zero", b"HTTP/1.1 000 OK"),
        ("099", b"HTTP/1.1 099 OK"),
        ("http2", b"HTTP/2.0 200 OK"),
        ("version", b"HTTP/1.x 200 OK"),
        ("lower", b"http/1.1 200 OK"),
        ("icy", b"ICY 200 OK"),
        ("none", b"200 OK"),
        ("html", b"<html>"),
        ("request", b"GET / HTTP/1.1"),
        ("101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade"),
        ("tls", b"\x15\x03\x01\x00\x02\x02\x46"),
    ),
    *_lengths(
        ("negative", b"Content-Length: -5"),
        ("plus", b"Content-Length: +5"),
        ("hex", b"Content-Length: 0x5"),
        ("letters", b"Content-Length: five"),
        ("huge", b"Content-Length: 99999999999999999999999"),
        ("two", b"Content-Length: 5\r\nContent-Length: 6"),
        ("list", b"Content-Length: 5, 6"),
        ("space", b"Content-Length: 5 5"),
    ),
    *_chunks(
        ("letters", b"zz\r\nhello\r\n0\r\n\r\n"),
        ("negative", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("prefix", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("none", b"\r\nhello\r\n0\r\n\r\n"),
        ("huge", b"fffffffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("too-short", b"3\r\nhello\r\n0\r\n\r\n"),
        ("too-long", b"7\r\nhello\r\n0\r\n\r\n"),
        ("no-end", b"5\r\nhello0\r\n\r\n"),
        ("plus", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("nul-in-trailer", b"5\r\nhello\r\n0\r\nx: a\0\r\n\r\n"),
        ("no-colon-in-trailer", b"5\r\nhello\r\n0\r\nxy\r\n\r\n"),
    ),
    case("coding-of-http10", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED),
    case("nothing", [CLOSE], REFUSED),
    case("http09", b"hello", REFUSED),
]

#: What a recipient may accept, or not, and what it must not use a connection after.
TOLERATED: Final = [
    case("more-than-announced", LENGTH + LENGTH, COMPLETE, body=b"hello, world"),
    case(
        "two-responses",
        LENGTH + b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nattack",
        COMPLETE,
        body=b"hello, world",
    ),
    case("204-with-content", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", COMPLETE, REFUSED, body=b""),
    case(
        "304-with-content", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", COMPLETE, REFUSED, body=b""
    ),
    case(
        "length-repeated",
        _OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        COMPLETE,
        REFUSED,
        body=b"hello",
    ),
    case("line-feeds", LENGTH.replace(b"\r\n", b"\n"), COMPLETE, REFUSED, body=b"hello, world"),
    case("folded", _OK + b"x: y\r\n z\r\nContent-Length: 5\r\n\r\nhello", COMPLETE, REFUSED, body=b"hello"),
    case("no-reason", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", COMPLETE, REFUSED, body=b"hello"),
    case("rtsp", b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", COMPLETE, REFUSED),
    case("status-600", b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n", COMPLETE, REFUSED),
    case("not-delimited", [send(_OK + b"\r\nhello"), CLOSE], COMPLETE, body=b"hello"),
    case("http10", [send(b"HTTP/1.0 200 OK\r\n\r\nhello"), CLOSE], COMPLETE, body=b"hello"),
    case("hint-first", HINTED, COMPLETE, body=b"hello, world"),
    case("chunked", CHUNKED, COMPLETE, body=b"hello, world"),
    case(
        "byte-by-byte",
        [*(send(CHUNKED[n : n + 1]) for n in range(len(CHUNKED))), NEXT],
        COMPLETE,
        body=b"hello, world",
    ),
]

QUICK: Final = [*INVALID, *TOLERATED, *ENDLESS]
EVERY_BYTE: Final = _every_byte()
CASES: Final = {one.name: one for one in (*QUICK, *SLOW, *EVERY_BYTE)}
assert len(CASES) == len(QUICK) + len(SLOW) + len(EVERY_BYTE), "two cases have the same name"


def misbehaving_upstream() -> ScriptedUpstream:
    """Return a server with all cases, by path; any other path gets a good answer and keeps the connection."""

    def find(path: str) -> Sequence[Step]:
        found = CASES.get(path.partition("?")[0])
        return found.steps if found is not None else [send(LENGTH), NEXT]

    return ScriptedUpstream(find)
