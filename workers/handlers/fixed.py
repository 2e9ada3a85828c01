"""Fixed answers: `action: {type: static}` of a route, and the answer to a method that a path does not have.

A request's body is read to its end and discarded before the answer, chunk by chunk (each extends the peer's credit), so
that a success says: the whole body arrived. A body larger than `server.limits.max_request_body` gets a 413 as soon as
that is known. Which requests come here is decided by the router.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping

from workers.body import Body
from workers.http import TEXT, Headers, Request, Response, plain
from workers.pipeline import Handler


class FixedHandler:
    """A `Handler` with one answer, made once: as it is sent, and as HEAD gets it."""

    def __init__(self, status: int, headers: Headers, body: bytes, max_body_bytes: int) -> None:
        """*headers* have names in lower case. *max_body_bytes*: bound of request bodies."""
        fields = tuple(headers)
        if body and all(name != b"content-type" for name, _ in fields):
            fields = (*fields, TEXT)
        # RFC 9110 section 8.6: 204 has no Content-Length; with 304 it would be that of another response.
        if status not in (204, 304):
            fields = (*fields, (b"content-length", b"%d" % len(body)))
        self.whole = Response(status, fields, body or None)
        self.head = Response(status, fields)
        self._too_large = plain(413)
        self._max_body_bytes = max_body_bytes

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer *request*, at once or when its body is complete."""
        head = request.method == b"HEAD"
        if _announced_bytes(request) > self._bound(request.body):
            return Response(413, self._too_large.headers) if head else self._too_large
        response = self.head if head else self.whole
        return response if request.body.complete else self._after(request.body, response)

    async def _after(self, body: Body, response: Response) -> Response:
        size_bytes, bound = 0, self._bound(body)
        async for data in body:
            size_bytes += len(data)
            if size_bytes > bound:
                return self._too_large
        return response

    def _bound(self, body: Body) -> int:
        return self._max_body_bytes if body.max_bytes is None else body.max_bytes


def encoded(headers: Mapping[str, str]) -> Headers:
    """Return the fields of the configuration as they are sent."""
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


def method_not_allowed(methods: Iterable[bytes]) -> Handler:
    """Return the handler that answers 405 and names *methods* (RFC 9110 section 15.5.6)."""
    refusal = plain(405, "", (b"allow", b", ".join(sorted(methods))))
    head = Response(405, refusal.headers)
    return lambda request: head if request.method == b"HEAD" else refusal


def _announced_bytes(request: Request) -> int:
    """Return the Content-Length; 0 without a readable one (the engine has validated the field)."""
    value = request.header(b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else 0
