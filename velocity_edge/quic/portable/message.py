"""What a well-formed request is (RFC 9114 sections 4.1.2 and 4.3), as one pure function.

aioquic's own validation is for demos: it requires no :path, allows WebSocket's :protocol, and treats a malformed
message as an error of the connection. Here it is an error of the stream, and every field that smuggling lives on is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: RFC 9110 section 5.6.2 (token), lower case as RFC 9114 section 4.2 demands.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: RFC 9110 section 5.5: no controls but HTAB, no white space at the ends.
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
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
            if not _DIGITS.fullmatch(value) or content_length not in (None, int(value)):
                raise Malformed("content-length")
            content_length = int(value)
        elif name == b"host":
            if host is not None:
                raise Malformed("two hosts")
            host = value
        fields.append((name, value))
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise Malformed("no method")
    authority = pseudo.get(b":authority", host or b"")
    # RFC 9114 section 4.3.1: authority and host, when both are there, say the same.
    if not _TARGET.fullmatch(authority) or host not in (None, authority):
        raise Malformed("authority")
    scheme, path = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    if method == b"CONNECT":
        if scheme or path:
            raise Malformed("CONNECT with a scheme or a path")
    elif not scheme or not _TARGET.fullmatch(path) or (path[:1] != b"/" and (method, path) != (b"OPTIONS", b"*")):
        raise Malformed("scheme or path")
    return Head(method, scheme, authority, path, fields, content_length)


def check_trailers(section: Iterable[Field]) -> None:
    """Raise `Malformed` unless *section* may follow a body."""
    for name, value in section:
        _check(name, value)


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Malformed(f"field {name[:40]!r}")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
        raise Malformed(f"connection-specific field {name!r}")
