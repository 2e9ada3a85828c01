"""Fixed answers by method: `action: static` of a route.

A request's body is read to its end and thrown away before the answer, chunk by chunk (each gives the peer credit for
the next), so that a success says: all of it arrived. What is larger than `server.limits.max_request_body` gets a 413 as
soon as that is known. Which path comes here is decided in router.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Self

from workers.http import TEXT, Body, Headers, Request, Response, plain

#: The key of `Answers` for every method.
ANY = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, made once: as it is sent, and as HEAD gets it."""

    whole: Response
    head: Response

    @classmethod
    def of(cls, status: int, headers: Headers, body: bytes) -> Self:
        """*headers* have names in lower case."""
        fields = tuple(headers)
        if body and all(name != b"content-type" for name, _ in fields):
            fields = (*fields, TEXT)
        # RFC 9110 section 8.6: 204 has no Content-Length; with 304 it would speak of another answer.
        if status not in (204, 304):
            fields = (*fields, (b"content-length", b"%d" % len(body)))
        return cls(Response(status, fields, body or None), Response(status, fields))


class Answers:
    """A `Handler`: the answers of one path."""

    def __init__(self, by_method: Mapping[bytes, Answer], max_body_bytes: int) -> None:
        """*by_method*: answers by method, or one under `ANY`."""
        self._by_method = dict(by_method)
        if b"GET" in self._by_method:
            self._by_method.setdefault(b"HEAD", self._by_method[b"GET"])
        self._max_body_bytes = max_body_bytes
        allow = (b"allow", b", ".join(sorted(self._by_method)))
        refusal, too_large = plain(405, "", allow), plain(413)
        self._refusal = Answer(refusal, Response(405, refusal.headers))
        self._too_large = Answer(too_large, Response(413, too_large.headers))

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer *request*, at once or when its body is in."""
        answer = self._by_method.get(request.method) or self._by_method.get(ANY)
        head = request.method == b"HEAD"
        if answer is None:
            return self._refusal.head if head else self._refusal.whole
        if _announced_bytes(request) > self._max_body_bytes:
            return self._too_large.head if head else self._too_large.whole
        response = answer.head if head else answer.whole
        return response if request.body.complete else self._after(request.body, response)

    async def _after(self, body: Body, response: Response) -> Response:
        size_bytes = 0
        async for data in body:
            size_bytes += len(data)
            if size_bytes > self._max_body_bytes:
                return self._too_large.whole
        return response


def _announced_bytes(request: Request) -> int:
    """Return the Content-Length; 0 where there is none that we can read (the engine has checked it already)."""
    value = request.header(b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else 0
