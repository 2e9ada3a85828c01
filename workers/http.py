"""Requests and responses, as handlers and middleware see them.

Fields are bytes as the engine delivered them: most are never looked at. Handlers and middleware are described in
pipeline.py; who calls them and what happens when one raises is decided in serve/exchanges.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from velocity_edge.http.requests import Address, FileRange
from workers.body import Body

Headers = Sequence[tuple[bytes, bytes]]

#: Application error codes of HTTP/3 that workers use (RFC 9114 section 8.1).
H3_NO_ERROR: Final = 0x100
H3_INTERNAL_ERROR: Final = 0x102
H3_EXCESSIVE_LOAD: Final = 0x107

TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class BodyCutShort(Exception):
    """The body of a response cannot be sent to its announced end: a file was changed, or a disk fails. Not a bug."""


class Request:
    """One HTTP request. `path` is raw (percent-encoded, without the query); `host` is lower case, without the port."""

    __slots__ = ("authority", "body", "early", "headers", "host", "method", "path", "peer", "query", "scheme")

    def __init__(
        self,
        method: bytes,
        authority: bytes,
        target: bytes,
        headers: Headers = (),
        *,
        scheme: bytes = b"https",
        peer: Address | None = None,
        body: Body | None = None,
        early: bool = False,
    ) -> None:
        """*target* is the :path pseudo-header: path and query."""
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.host = host_of(authority)
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.peer = peer
        self.body = body or Body(None)
        self.early = early

    def header(self, name: bytes) -> bytes | None:
        """Return the field's value, several lines joined by a comma (RFC 9110 section 5.3); None when absent."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response. `body` is bytes, a range of a file, or chunks that are produced later."""

    status: int
    headers: Headers = ()
    body: bytes | FileRange | AsyncIterable[bytes] | None = None
    #: The response depends on nothing but the authority, the target and Accept-Encoding of a GET without body, Range
    #: and precondition. It is sent for the same question until the end of the second, if all middleware around the
    #: handler permits it (pipeline.py).
    shared: bool = False


def host_of(authority: bytes) -> bytes:
    """Return the host of *authority*: lower case, no port, no final dot; IPv6 literals keep their brackets."""
    host = authority.lower()
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0].removesuffix(b".")


#: Phrases of RFC 9110 section 15 that differ from RFCs 2616 and 4918; Python's own changed with version 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def phrase(status: int) -> str:
    """Return the reason phrase of *status*, whatever the Python version. Raises `ValueError` for an unknown one."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def body_length(body: object) -> int:
    """Return the length of a body that is complete; 0 for chunks that are produced later."""
    if isinstance(body, bytes):
        return len(body)
    return body.length if isinstance(body, FileRange) else 0


def plain(status: int, text: str = "", *headers: tuple[bytes, bytes]) -> Response:
    """Return a short text response; without *text*, the reason phrase."""
    body = f"{text or phrase(status)}\n".encode()
    return Response(status, (TEXT, (b"content-length", b"%d" % len(body)), *headers), body)
