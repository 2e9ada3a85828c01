"""The fields of a request to an upstream, and of its response: what is dropped, added and refused. Pure.

Nothing malformed is written to an upstream: the complete header section is checked by the rules of
velocity_edge/http/message.py, also the fields that policy and middleware add. A response is held to the same rules. How
sections become bytes is left to h11 and h2 (h1.py, h2.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from velocity_edge.http.message import Malformed, check_fields, check_trailers, field_section_size, parse_head
from velocity_edge.http.requests import Headers
from velocity_edge.http.upstreams import ForwardRequest

Fields = list[tuple[bytes, bytes]]

#: RFC 9110 section 7.6.1. `te` is kept where it is "trailers"; `host` is the authority.
HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"host")
)
#: Made by the side that opens the connection (RFC 6455 section 4.1); extended CONNECT has none (RFC 8441 section 5.1).
_HANDSHAKE: Final = frozenset((b"sec-websocket-key", b"sec-websocket-accept", b"content-length", b"expect"))
#: A request with one of these methods is expected to have content (RFC 9110 section 8.6): without, the length is 0.
_WITH_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A header section that may be written. `length`: None without a body, -1 for one of unknown length."""

    method: bytes
    target: bytes
    authority: bytes
    fields: Fields
    length: int | None
    #: The client waits for 100 (Continue) before it sends the body.
    expects: bool
    tunnel: bool


def _nominated(fields: Headers) -> set[bytes]:
    """Return the names that Connection fields list (RFC 9110 section 7.6.1)."""
    named = {b"connection"}
    for name, value in fields:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return named


def request_head(request: ForwardRequest, scheme: bytes, length: int | None) -> RequestHead:
    """Return what is written for *request*.

    *length*: None without a body, its size in bytes, or -1: what Content-Length says, otherwise unknown. Raises
    `ValueError` when the request could not be written as it is; the engine has validated what the client sent.
    """
    tunnel = bool(request.protocol)
    if tunnel and request.protocol != b"websocket":
        raise ValueError("cannot forward an extended CONNECT of a protocol other than websocket")
    gone = HOP_BY_HOP | _nominated(request.fields) | frozenset(request.drop)
    fields = [field for field in request.fields if field[0] not in gone]
    if (b"te", b"trailers") in request.fields and b"te" not in request.drop and not tunnel:
        fields.append((b"te", b"trailers"))
    fields += request.add
    if tunnel:
        fields = [field for field in fields if field[0] not in _HANDSHAKE]
    pseudo = [(b":method", b"GET" if tunnel else request.method), (b":scheme", scheme)]
    pseudo += [(b":authority", request.authority), (b":path", request.target)]
    try:
        if request.method == b"CONNECT" and not tunnel:
            raise Malformed("CONNECT without a protocol")
        announced = parse_head([*pseudo, *fields]).content_length
    except Malformed as error:
        raise ValueError(f"cannot send this request to an upstream: {error}") from None
    if tunnel:
        return RequestHead(b"CONNECT", request.target, request.authority, fields, -1, False, True)
    length = _length(length, announced)
    rest = [field for field in fields if field[0] not in (b"content-length", b"expect")]
    expects = length not in (None, 0) and any(f[0] == b"expect" and f[1].lower() == b"100-continue" for f in fields)
    if length is not None and length >= 0:
        rest.append((b"content-length", b"%d" % length))
    elif length is None and (announced == 0 or request.method in _WITH_CONTENT):
        rest.append((b"content-length", b"0"))
    if expects:
        rest.append((b"expect", b"100-continue"))
    return RequestHead(request.method, request.target, request.authority, rest, length, expects, False)


def _length(length: int | None, announced: int | None) -> int | None:
    if length == -1:
        return length if announced is None else announced
    if announced is not None and announced != (length or 0):
        raise ValueError(f"cannot send {length or 0} bytes as a body with Content-Length {announced}")
    return length


def response_fields(status: int, fields: Iterable[tuple[bytes, bytes]], max_bytes: int, max_fields: int) -> Fields:
    """Return the fields of a response that are passed on. Raises `Malformed`."""
    received = list(fields)
    if len(received) > max_fields:
        raise Malformed(f"more than {max_fields} fields")
    if field_section_size(received) - 32 * len(received) > max_bytes:
        raise Malformed(f"a header section of more than {max_bytes} bytes")
    gone = HOP_BY_HOP | _nominated(received)
    if status < 200 or status == 204:
        gone = gone | {b"content-length"}  # RFC 9110 section 8.6
    kept = [field for field in received if field[0] not in gone]
    check_fields(kept)
    return kept


def trailer_fields(fields: Iterable[tuple[bytes, bytes]], max_bytes: int, max_fields: int) -> Fields:
    """Return trailers that are passed on: those that may not follow a body are left out. Raises `Malformed`."""
    kept: Fields = []
    for field in response_fields(200, fields, max_bytes, max_fields):
        try:
            check_trailers([field])
        except Malformed:
            continue  # RFC 9110 section 6.5.1: a recipient ignores what is no trailer
        kept.append(field)
    return kept
