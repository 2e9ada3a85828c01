"""What a well-formed request is (RFC 9114 sections 4.1.2, 4.2, 4.3 and 10.3; RFC 9110 sections 5 and 6.5). Pure.

aioquic's own validation is not enough: it requires no :path, has no rules for :protocol, and treats a malformed
message as an error of the connection. Here it is an error of the stream, and every field that request smuggling uses is
refused. velocity_edge/quic/native/message.c has the same rules in C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: RFC 9110 section 5.6.2 (token), lower case as RFC 9114 section 4.2 demands.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
#: A method, or the protocol of an extended CONNECT.
_WORD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: RFC 9110 section 5.5: no controls but HTAB, no white space at the ends.
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
#: RFC 3986 section 3.1.
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
#: host [ ":" port ] of RFC 3986 section 3.2: user information is deprecated and refused (RFC 9114 section 4.3.1).
_AUTHORITY: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,}\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::(?P<port>[0-9]{0,5}))?"
)
#: More than RFC 3986 allows, because browsers send `|` and the like as they are; a target never has a fragment. What a
#: target means is decided by handlers.
_PATH: Final = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
#: RFC 9110 section 6.5.1: framing, routing, authentication, modifiers and the form of the content come before it.
_BEFORE_THE_CONTENT: Final = _CONNECTION_SPECIFIC.union(
    b"authorization content-encoding content-length content-range content-type cookie "
    b"expect host proxy-authorization range te trailer".split()
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
#: RFC 9114 section 4.2.2: what a field costs beside its bytes.
FIELD_OVERHEAD: Final = 32

Field = tuple[bytes, bytes]


class Malformed(Exception):
    """A request or trailer section that is not well formed: H3_MESSAGE_ERROR."""


@dataclass(frozen=True, slots=True)
class Head:
    """A valid request. `content_length` is None when there was no such field."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    fields: list[Field]
    content_length: int | None
    #: Of an extended CONNECT (RFC 9220); b"" in other requests.
    protocol: bytes = b""


def field_section_size(fields: Iterable[Field]) -> int:
    """Return the size of a field section as RFC 9114 section 4.2.2 counts it, in bytes."""
    return sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in fields)


def parse_head(section: Iterable[Field]) -> Head:
    """Return the request in a decoded field section, or raise `Malformed`."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[Field] = []
    content_length: int | None = None
    host: bytes | None = None
    for name, value in section:
        if name[:1] == b":":
            if fields or name not in _PSEUDO or name in pseudo:
                raise Malformed(f"pseudo-header {name[:40]!r}")
            pseudo[name] = value
            continue
        _check(name, value)
        if name == b"content-length":
            if not _DIGITS.fullmatch(value) or content_length is not None:
                raise Malformed("content-length")
            content_length = int(value)
        elif name == b"host":
            if host is not None:
                raise Malformed("two hosts")
            host = value
        fields.append((name, value))
    method = pseudo.get(b":method", b"")
    if not _WORD.fullmatch(method):
        raise Malformed("no method")
    authority = pseudo.get(b":authority", host or b"")
    # RFC 9114 section 4.3.1: authority and host must be equal when both are there.
    target = _AUTHORITY.fullmatch(authority)
    if target is None or host not in (None, authority):
        raise Malformed("authority")
    scheme, path = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    protocol = pseudo.get(b":protocol")
    if method == b"CONNECT" and protocol is None:
        # RFC 9114 section 4.4: only :method and :authority.
        if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo or not target["port"]:
            raise Malformed("CONNECT with a scheme or a path, or without a port")
    elif not _SCHEME.fullmatch(scheme) or not (_PATH.fullmatch(path) or (method, path) == (b"OPTIONS", b"*")):
        raise Malformed("scheme or path")
    if protocol is not None and (
        # RFC 8441 section 4. A tunnel has no content, and no length that an upstream could count with.
        method != b"CONNECT" or not _WORD.fullmatch(protocol) or content_length is not None
    ):
        raise Malformed("protocol")
    return Head(method, scheme, authority, path, fields, content_length, protocol or b"")


def check_answer(status: int, fields: Iterable[Field]) -> None:
    """Raise `ValueError` for a header section that must not be sent (RFC 9114 sections 4.2, 4.3.2 and 4.5)."""
    if not 100 <= status <= 599 or status == 101:
        raise ValueError(f"status {status}: expected 100, 102 to 599")
    for field in fields:
        if not _NAME.fullmatch(field[0]) or not _VALUE.fullmatch(field[1]):
            raise ValueError(f"invalid header field: {field!r}")


def check_answer_trailers(fields: Iterable[Field]) -> None:
    """Raise `ValueError` unless *fields* may follow the body of a response."""
    for field in fields:
        if not _NAME.fullmatch(field[0]) or not _VALUE.fullmatch(field[1]):
            raise ValueError(f"invalid header field: {field!r}")
        if field[0] in _BEFORE_THE_CONTENT:
            raise ValueError(f"field that must come before the content: {field!r}")


def check_trailers(section: Iterable[Field]) -> None:
    """Raise `Malformed` unless *section* may follow a body."""
    for name, value in section:
        _check(name, value)
        if name in _BEFORE_THE_CONTENT:
            raise Malformed(f"{name!r} in trailers")


def check_fields(section: Iterable[Field]) -> None:
    """Raise `Malformed` unless *section* can be a header section without its pseudo-headers, of either direction."""
    for name, value in section:
        _check(name, value)


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Malformed(f"field {name[:40]!r}")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"connection-specific field {name!r}")
