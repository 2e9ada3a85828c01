"""The words of this folder: Request, Body, Response, Handler, Middleware.

A handler is a function from a request to a response. A plain function is the fast path: its answer leaves in the same
turn of the loop. A coroutine function may wait (for a body, an upstream) and runs as a task of the worker. Middleware
wraps a handler in another one, once per revision, so that a request pays for what its site uses and nothing else.

Fields are bytes as the engine delivered them: most are never looked at. Who calls handlers and what happens when one
raises is decided in exchanges.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from velocity_edge.http.requests import Address, FileRange

Headers = Sequence[tuple[bytes, bytes]]

#: Application error codes of HTTP/3 that we use (RFC 9114 section 8.1).
H3_NO_ERROR: Final = 0x100
H3_INTERNAL_ERROR: Final = 0x102
H3_EXCESSIVE_LOAD: Final = 0x107

TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class BodyTooLarge(Exception):
    """The request body is larger than the handler takes."""


class BodyCutShort(Exception):
    """The body of an answer cannot be sent to its announced end. Nobody's bug: a file was changed, or a disk fails."""


class Body:
    """A request body, chunk by chunk. Taking a chunk gives the peer credit for it: who reads slowly is sent slowly.

    What waits here unread is bounded by `Limits.stream_window_bytes`, because the peer has no credit for more. When the
    peer goes away the handler's task is cancelled: whoever waits here needs no error for that.
    """

    __slots__ = ("_chunks", "_credit", "_fin", "_invite", "_waiter")

    def __init__(self, credit: Callable[[int], None] | None, invite: Callable[[], None] | None = None) -> None:
        """Without *credit* there is no body. *invite* is called before the first wait for a chunk: 100 (Continue)."""
        self._credit = credit
        self._invite = invite
        self._chunks: deque[bytes] = deque()
        self._fin = credit is None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes, fin: bool) -> None:
        """A chunk arrived: the peer does not wait to be invited."""
        self._invite = None
        if data:
            self._chunks.append(data)
        self._fin = self._fin or fin
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None

    @property
    def complete(self) -> bool:
        """Everything arrived (and perhaps waits here)."""
        return self._fin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield chunks."""
        while True:
            while self._chunks:
                data = self._chunks.popleft()
                if self._credit is not None:
                    self._credit(len(data))
                yield data
            if self._fin:
                return
            if self._invite is not None:
                self._invite()
                self._invite = None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises `BodyTooLarge` above *max_bytes*."""
        parts: list[bytes] = []
        size = 0
        async for data in self:
            size += len(data)
            if size > max_bytes:
                raise BodyTooLarge
            parts.append(data)
        return b"".join(parts)

    def take(self) -> int:
        """Throw away what waits here; return how many bytes that were. The caller gives the credit."""
        size = sum(map(len, self._chunks))
        self._chunks.clear()
        return size


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
    """One HTTP response. `body` is bytes, a piece of a file, or chunks that are yet to come."""

    status: int
    headers: Headers = ()
    body: bytes | FileRange | AsyncIterable[bytes] | None = None
    #: Within this second, every GET of the same authority, target and Accept-Encoding that has no body, no Range and
    #: no precondition gets this same answer. Whoever lets an answer depend on more must not say so.
    shared: bool = False


Handler = Callable[[Request], Response | Awaitable[Response]]
Middleware = Callable[[Handler], Handler]


def host_of(authority: bytes) -> bytes:
    """Return the host of *authority*: lower case, no port, no final dot; IPv6 literals keep their brackets."""
    host = authority.lower()
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0].removesuffix(b".")


#: Where RFC 9110, section 15 has another phrase than the RFCs 2616 and 4918: Python's own changed with version 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def phrase(status: int) -> str:
    """Return the reason phrase of *status*, the same with every Python. Raises `ValueError` for an unknown one."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def body_length(body: object) -> int:
    """Return the bytes of a body that is there already; 0 for chunks that are yet to come."""
    if isinstance(body, bytes):
        return len(body)
    return body.length if isinstance(body, FileRange) else 0


def plain(status: int, text: str = "", *headers: tuple[bytes, bytes]) -> Response:
    """Return a short text answer; without *text*, the status's own phrase."""
    body = f"{text or phrase(status)}\n".encode()
    return Response(status, (TEXT, (b"content-length", b"%d" % len(body)), *headers), body)


def fold(middlewares: Sequence[Middleware], handler: Handler) -> Handler:
    """Wrap *handler*: the first middleware sees the request first and the response last."""
    for middleware in reversed(middlewares):
        handler = middleware(handler)
    return handler
