"""Lists of client addresses that are answered, or not. `deny` takes precedence.

The address is `Request.client`: the peer, or whom a trusted proxy names. A peer's address is proven by its handshake;
early data may be sent before that, from any address, so it gets a 425 and comes again after the handshake. A client
without an address (never in a worker that serves) is in no network.
"""

from __future__ import annotations

from collections.abc import Awaitable

from velocity_edge.config.middlewares.ip import IpLists
from workers.http import Answer, Request
from workers.middleware.addresses import Networks, packed
from workers.middleware.refusals import refusal, too_early
from workers.pipeline import Handler, Middleware


class IpFilter(Middleware):
    """Refuses requests by the client's address."""

    def __init__(self, section: IpLists) -> None:
        self._allow = Networks(section.allow) if section.allow else None
        self._deny = Networks(section.deny)
        self._status = section.status

    def answers(self, address: bytes) -> bool:
        """Return whether a client with this packed address is answered."""
        return address not in self._deny and (self._allow is None or address in self._allow)

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* for the addresses that are answered."""

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            if request.early:
                return too_early(request)
            if not self.answers(packed(request.client)):
                return refusal(request, self._status)
            return handler(request)

        return handle
