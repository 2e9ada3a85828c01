"""Compression of responses on the fly: files, fixed answers, and what upstreams send.

What is compressed is decided in coding.py, by the client's Accept-Encoding in static/encodings.py. Responses that may
be shared depend on nothing else (pipeline.py). Others, which can contain secrets, are not compressed when a page of
another site has the browser send them with credentials: an attacker who sees lengths could guess the secret (BREACH,
2013). Chunks of unknown total are flushed one by one, as an upstream sent them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import Final

from velocity_edge.config.middlewares.compress import Compress
from velocity_edge.http.requests import FileRange
from workers.handlers.static.encodings import choose
from workers.http import Answer, Forward, Request, Response
from workers.measures import Measures
from workers.middleware import coding
from workers.middleware.compressors import AT_ONCE_BYTES, MAX_STREAMS, Coder, Compressed, Kept
from workers.pipeline import Handler, Middleware, then

#: Values of Sec-Fetch-Site of requests that the site's own pages make, or its user.
_OWN_SITE: Final = frozenset((b"same-origin", b"none"))


class Compression(Middleware):
    """Compresses responses."""

    same_for_all = True
    reads_body = True

    def __init__(self, section: Compress, kept: Kept, measures: Measures) -> None:
        self._rules = coding.Rules(coding.Types(section.types), section.minimum_bytes)
        self._names = tuple(section.codings)
        self._coders: dict[str, Coder] = {name: Coder(name, section.level) for name in section.codings}
        self._kept = kept
        self._before = measures.counter("velocity_compressed_bytes_total", ("before",))
        self._after = measures.counter("velocity_compressed_bytes_total", ("after",))

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with compressed responses."""

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            name = choose(request.header(b"accept-encoding"), self._names)
            coder = self._coders[name] if name is not None else None
            return then(handler(request), lambda answer: self._finish(request, answer, coder))

        return handle

    def _finish(self, request: Request, answer: Answer, coder: Coder | None) -> Answer:
        if isinstance(answer, Forward):
            return answer  # the engine passes it on: what `reads_body` prevents
        if answer.status == 304 and coder is not None:
            return replace(answer, headers=coding.not_modified(answer.headers))
        length = _length(answer)
        head = request.method == b"HEAD"
        if (answer.body is None and not head) or not coding.may_code(answer, self._rules, length):
            return answer
        if coder is None or (not answer.shared and _may_be_watched(request)):
            return replace(answer, headers=coding.varied(answer.headers))
        return self._compressed(answer, coder, length)

    def _compressed(self, answer: Response, coder: Coder, length: int | None) -> Response:
        body = answer.body
        if body is None:
            return replace(answer, headers=coding.coded(answer.headers, coder.name, None))
        kept = self._kept if answer.shared and isinstance(body, bytes | FileRange) else None
        small = kept.find(body, coder) if kept is not None else None
        if small is None and isinstance(body, bytes) and len(body) <= AT_ONCE_BYTES:
            small = coder.all(body)
            if kept is not None:
                kept.keep(body, coder, small)
        if small is not None:
            self._count(length or 0, len(small))
            headers = coding.coded(answer.headers, coder.name, len(small))
            return Response(answer.status, headers, small, answer.shared, answer.trailers)
        if Compressed.alive >= MAX_STREAMS:
            return replace(answer, headers=coding.varied(answer.headers))
        keep = partial(kept.keep, body, coder) if kept is not None and isinstance(body, bytes | FileRange) else None
        chunks = Compressed(body, coder, length is None, self._count, keep)
        headers = coding.coded(answer.headers, coder.name, None)
        return Response(answer.status, headers, chunks, False, answer.trailers)

    def _count(self, before: int, after: int) -> None:
        self._before.add(before)
        self._after.add(after)


def _length(answer: Response) -> int | None:
    body = answer.body
    if isinstance(body, bytes):
        return len(body)
    if isinstance(body, FileRange):
        return body.length
    announced = next((value for name, value in answer.headers if name == b"content-length"), b"")
    return int(announced) if announced.isdigit() and len(announced) < 20 else None


def _may_be_watched(request: Request) -> bool:
    """Return whether a page of another site may have caused this request, with the credentials of its reader."""
    site, credentials = b"same-origin", False
    for name, value in request.headers:
        if name == b"sec-fetch-site":
            site = value
        elif name in (b"cookie", b"authorization"):
            credentials = True
    return credentials and site not in _OWN_SITE
