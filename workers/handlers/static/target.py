"""From the path of a request to a path below a site's root. Pure; openat2 (beneath.py) is the second line of defence.

Percent-encoding is decoded exactly once. Ambiguous paths are not served: an encoded slash, an empty segment
(`//host/..` in a redirect would lead to another host), `.` and `..` (clients remove them before a request, RFC 3986
section 5.2.4). Segments that begin with a dot are hidden unless the site permits them, except `.well-known` (RFC 8615).
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

#: Linux's PATH_MAX; a longer path cannot name a file.
MAX_PATH_BYTES = 4096
#: Linux's NAME_MAX.
MAX_NAME_BYTES = 255


class BadTarget(Exception):
    """The path cannot name a file: `status` is 400 (not a valid path) or 404 (no such file can exist)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def relative_path(path: bytes, *, hidden_files: bool = False) -> bytes:
    """Return *path* decoded, without its first slash; a final slash stays. Raises `BadTarget`."""
    if not path.startswith(b"/"):
        raise BadTarget(400, "the path does not begin with a slash")
    if b"%" in path:
        path = _decoded(path)
    if b"\0" in path:
        raise BadTarget(400, "NUL in the path")
    if len(path) > MAX_PATH_BYTES:
        raise BadTarget(404, "longer than any file's path")
    segments = path[1:].split(b"/")
    for segment in segments[:-1]:
        if not segment:
            raise BadTarget(404, "empty segment")
    for segment in segments:
        if segment in (b".", b".."):
            raise BadTarget(404, "dot segment")
        if segment.startswith(b".") and segment != b".well-known" and not hidden_files:
            raise BadTarget(404, "hidden")
        if len(segment) > MAX_NAME_BYTES:
            raise BadTarget(404, "longer than any file's name")
    return path[1:]


def _decoded(path: bytes) -> bytes:
    for tail in path.split(b"%")[1:]:
        if len(tail) < 2 or not all(octet in b"0123456789abcdefABCDEF" for octet in tail[:2]):
            raise BadTarget(400, "incomplete percent-encoding")
        if tail[:2].lower() == b"2f":
            raise BadTarget(404, "encoded slash")
    return unquote_to_bytes(path)
