"""Bounds of request bodies: a larger one gets a 413 as soon as that is known, from its length or while it arrives.

The bound goes with the body (`Body.max_bytes`): a handler that reads it meets `BodyTooLarge`, and a proxy passes it to
the engine. Without a body limit it is `server.limits.max_request_body`.
"""

from __future__ import annotations

from collections.abc import Awaitable

from workers.body import BodyTooLarge
from workers.http import Answer, Request
from workers.middleware.refusals import refusal
from workers.pipeline import Handler, Middleware


class LimitBody(Middleware):
    """Refuses large request bodies."""

    same_for_all = True

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* for bodies within the bound."""
        bound = self._max_body_bytes

        async def later(request: Request, result: Awaitable[Answer]) -> Answer:
            try:
                return await result
            except BodyTooLarge:
                return refusal(request, 413)

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            announced = request.header(b"content-length") or b"0"
            announced_bytes = int(announced[:20]) if announced.isdigit() else 0
            # What has arrived meanwhile (an outer middleware has waited) is not read by every handler.
            if max(announced_bytes, request.body.waiting_bytes) > bound:
                return refusal(request, 413)
            request.body.max_bytes = bound
            result = handler(request)
            return result if isinstance(result, Answer) else later(request, result)

        return handle
