"""Whether a response is compressed, and what its fields become (RFC 9110 sections 8.4, 8.8.3, 12.5).

A compressed response is another representation: its entity tag becomes weak, so that If-None-Match still matches and
If-Range and If-Match do not; it has no ranges and no digests; `vary` tells caches. What has a coding already, or is a
part (206), or must not be changed (`no-transform`), stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from workers.http import Headers, Response

#: Of the representation as it was.
_DROPPED: Final = frozenset((b"content-length", b"accept-ranges", b"content-md5", b"digest"))
_DIGESTS: Final = frozenset((b"content-digest", b"repr-digest"))
_BODILESS: Final = frozenset((204, 205, 206, 304))
VARY: Final = (b"vary", b"accept-encoding")


class Types:
    """A set of media types: `text/html`, `text/*`, `*/*`, `+json`."""

    def __init__(self, types: Sequence[str]) -> None:
        names = [name.encode() for name in types]
        self._exact = frozenset(name for name in names if not name.startswith(b"+") and not name.endswith(b"*"))
        self._prefixes = tuple(name[:-1] for name in names if name.endswith(b"/*") and name != b"*/*")
        self._suffixes = tuple(name for name in names if name.startswith(b"+"))
        self._all = b"*/*" in names

    def __contains__(self, content_type: object) -> bool:
        """Whether the type of this Content-Type is in the set. Event streams are only by their full name."""
        assert isinstance(content_type, bytes)
        name = content_type.partition(b";")[0].strip(b" \t").lower()
        if name in self._exact:
            return True
        if name == b"text/event-stream" or not name:
            return False
        return self._all or name.startswith(self._prefixes) or name.endswith(self._suffixes)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which responses are compressed."""

    types: Types
    minimum_bytes: int


def may_code(response: Response, rules: Rules, length: int | None) -> bool:
    """Return whether *response*, whose body has *length* (None: unknown), is one to compress if the client agrees."""
    if response.status < 200 or response.status in _BODILESS or (length is not None and length < rules.minimum_bytes):
        return False
    fits = False
    for name, value in response.headers:
        if name == b"content-type":
            fits = value in rules.types
        elif (
            (name == b"content-encoding" and value.lower() != b"identity")
            or name == b"content-range"
            or (name == b"cache-control" and b"no-transform" in value.lower())
        ):
            return False
    return fits


def coded(headers: Headers, coding: bytes, length: int | None) -> Headers:
    """Return the fields of the compressed response; *length* of its body, None while that is not known."""
    fields = [
        (name, weak(value) if name == b"etag" else value)
        for name, value in headers
        if name not in _DROPPED and name not in _DIGESTS and name != b"content-encoding"
    ]
    fields.append((b"content-encoding", coding))
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return varied(fields)


def not_modified(headers: Headers) -> Headers:
    """Return the fields of a 304 for a client whose copy may be a compressed one: it has the weak tag."""
    return varied([(name, weak(value) if name == b"etag" else value) for name, value in headers])


def varied(headers: Headers) -> Headers:
    """Return *headers*, which say that the response depends on Accept-Encoding."""
    named = [member for name, value in headers if name == b"vary" for member in value.lower().split(b",")]
    if any(member.strip(b" \t") in (b"accept-encoding", b"*") for member in named):
        return headers
    return [*headers, VARY]


def weak(etag: bytes) -> bytes:
    """Return the entity tag, weak (RFC 9110 section 8.8.3)."""
    return etag if etag.startswith(b"W/") else b"W/" + etag
