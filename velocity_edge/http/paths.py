"""The path of a request as routes compare it: segments, with what RFC 3986 calls equivalent made equal. Pure.

A route may be what protects a path, so no second spelling may lead around it: percent-encoded letters and digits are
decoded (section 6.2.2.2), `.` and `..` are resolved (6.2.2.3), and repeated slashes count as one, as many servers
behind a proxy read them. What stays ambiguous is refused: a dot segment that appears only when an encoded slash or a
backslash is read as a separator, or that has a parameter (`..;x`), since a server behind a proxy may resolve it and the
route would be the wrong one. Only the choice of the route uses this form; handlers and upstreams get the path as it
came.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

#: RFC 3986 section 2.3.
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
#: Faster than four comparisons.
_UNUSUAL: Final = re.compile(rb"[%\\]|/[./]").search
_SEPARATORS: Final = re.compile(rb"[/\\]")


class AmbiguousPath(Exception):
    """Servers read this path in different ways: 400."""


def segments_of(path: bytes) -> list[bytes]:
    """Return the segments of *path*, which begins with a slash; a final slash is an empty last segment.

    Raises `AmbiguousPath`.
    """
    if _UNUSUAL(path) is None:
        return path[1:].split(b"/")
    segments: list[bytes] = []
    parts = _ENCODED.sub(_unreserved, path)[1:].split(b"/")
    for part in parts[:-1]:
        if part == b"..":
            del segments[-1:]
        elif part not in (b"", b"."):
            segments.append(_clear(part))
    last = parts[-1]
    if last == b"..":
        del segments[-1:]
    segments.append(b"" if last in (b".", b"..") else _clear(last))
    return segments


def _unreserved(found: re.Match[bytes]) -> bytes:
    octet = int(found[1], 16)
    return bytes((octet,)) if octet in _UNRESERVED else found[0].upper()


def _clear(segment: bytes) -> bytes:
    """Return *segment*, which is no dot segment; raise `AmbiguousPath` when another server could read one in it."""
    for piece in _SEPARATORS.split(unquote_to_bytes(segment)):
        if piece.partition(b";")[0] in (b".", b"..") and segment not in (b".", b".."):
            raise AmbiguousPath
    return segment
