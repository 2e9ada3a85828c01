"""Error pages of a site for what its middleware refuses: a 403 of an address list, a 429 of a rate limit.

The site's handler has the pages, and sends them for its own errors (handlers/static/site.py). Fields of the refusal
stay (`retry-after`, `www-authenticate`); those that describe its body do not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from workers.handlers.static.site import StaticHandler
from workers.http import Answer, Request, Response
from workers.pipeline import Handler, Middleware, then

_OF_THE_BODY: Final = frozenset(
    (b"content-type", b"content-length", b"content-encoding", b"etag", b"last-modified", b"accept-ranges")
)


class ErrorPages(Middleware):
    """Replaces the bodies of errors by the pages of a site."""

    same_for_all = True

    def __init__(self, site: StaticHandler) -> None:
        self._site = site

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the pages."""
        statuses = self._site.error_statuses

        def dressed(request: Request, answer: Answer) -> Answer:
            if not isinstance(answer, Response) or answer.status not in statuses:
                return answer
            kept = [field for field in answer.headers if field[0] not in _OF_THE_BODY]
            return self._site.dressed(request, answer.status, kept) or answer

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            return then(handler(request), lambda answer: dressed(request, answer))

        return handle


def with_error_pages(around: Sequence[Middleware], handler: Handler) -> Sequence[Middleware]:
    """Return the middleware of a route with the pages of its site inside of what is around everything."""
    if not isinstance(handler, StaticHandler) or not handler.error_statuses or len(around) < 2:
        return around
    return [around[0], ErrorPages(handler), *around[1:]]
