"""Removes fields by which upstreams learn who the client is from what clients send: on every route of the node.

Also where nobody authenticates: an upstream that is behind a protected and an open route cannot tell which one a
request came by, and must be able to trust such a field wherever it sees it. Short because it only removes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from workers.http import Answer, Request
from workers.pipeline import Handler, Middleware


class StripIdentity(Middleware):
    """Keeps fields of clients from upstreams."""

    same_for_all = True

    def __init__(self, names: Iterable[str]) -> None:
        """*names*: all fields that an authentication of this configuration sets, in lower case."""
        self._names = [name.encode() for name in names]

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* with the fields removed from the request for an upstream."""
        names = self._names

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            request.upstream_drop += names
            return handler(request)

        return handle
