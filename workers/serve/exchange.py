"""Exchanges that do not end in the turn in which they began, and what remains of their request bodies.

An exchange is open while its request body is incomplete, its handler runs, or it waits for a later turn. After the
response the rest of the body is read and discarded up to a bound, because a browser that is told to stop before it has
sent everything never shows the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.http.requests import Address, BodyReceived, RequestReceived, Requests
from workers.body import Body
from workers.http import H3_NO_ERROR, Request

#: Bytes of a request body that are discarded after the response; then the stream is reset. It is the default of
#: `max_request_body_bytes`. How long it may take is bounded by `request_timeout_s` in the engine.
_MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024


class Exchange:
    """One request and its response."""

    __slots__ = (
        "answered",
        "body",
        "connection",
        "discarded_bytes",
        "forwarded",
        "request",
        "site",
        "stream",
        "task",
        "writable",
    )

    def __init__(self, connection: int, stream: int, body: Body) -> None:
        self.connection = connection
        self.stream = stream
        self.body = body
        self.task: asyncio.Task[None] | None = None
        #: What the task waits for: room to send, or its turn.
        self.writable: asyncio.Future[None] | None = None
        #: The head of the response was sent.
        self.answered = False
        self.discarded_bytes = 0
        #: The engine has it, or will have it when a server has room (forwards.py).
        self.forwarded = False
        #: What the handler got, and the site that it belongs to; None and "" when no handler was asked.
        self.request: Request | None = None
        self.site = ""


def request_of(
    event: RequestReceived, body: Body, peer: Address | None, trusted: TrustedProxies | None = None
) -> Request | None:
    """Return the request; None when :authority and Host contradict each other or both are missing.

    *trusted* proxies in front say who its client is.
    """
    authority = event.authority
    for name, value in event.headers:
        if name == b"host":
            if authority and value != authority:
                return None
            authority = value
    if not authority:
        return None
    request = Request(
        event.method,
        authority,
        event.path,
        event.headers,
        scheme=event.scheme,
        peer=peer,
        body=body,
        early=event.early,
        protocol=event.protocol,
    )
    if trusted and peer is not None:
        request.client = trusted.client(peer, event.headers)
    return request


class OpenExchanges:
    """The open exchanges of one worker, by stream."""

    def __init__(self, engine: Requests, flush_soon: Callable[[], None]) -> None:
        """*flush_soon* has the engine's packets sent after this turn."""
        self._engine = engine
        self._flush_soon = flush_soon
        #: Public because it is looked at for each event.
        self.by_stream: dict[int, Exchange] = {}

    def create(self, event: RequestReceived) -> Exchange:
        """Return the exchange of a new request. It is not open yet."""
        stream = event.stream
        body = Body(None) if event.fin else Body(lambda n_bytes: self._credit(stream, n_bytes), self._invitation(event))
        return Exchange(event.connection, stream, body)

    def on_body(self, event: BodyReceived) -> None:
        """Pass a chunk of a request body on, or discard it when the response is complete."""
        exchange = self.by_stream.get(event.stream)
        if exchange is None:
            return  # reset by this side: the engine extends the credit for what it drops
        if exchange.answered and exchange.task is None:
            self._discard(exchange, len(event.data), event.fin)
        else:
            exchange.body.feed(event.data, event.fin, event.trailers)

    def finish(self, exchange: Exchange) -> None:
        """After the response: close the exchange, or discard what the handler left of the request body."""
        if self.by_stream.get(exchange.stream) is not exchange:
            return
        if exchange.body.complete and not exchange.body.take():
            del self.by_stream[exchange.stream]
        else:
            self._discard(exchange, exchange.body.take(), exchange.body.complete)

    def _discard(self, exchange: Exchange, n_bytes: int, fin: bool) -> None:
        exchange.discarded_bytes += n_bytes
        if fin:
            self.by_stream.pop(exchange.stream, None)
        if n_bytes:
            self._credit(exchange.stream, n_bytes)
        if exchange.discarded_bytes > _MAX_DISCARDED_BYTES and not fin:
            self.by_stream.pop(exchange.stream, None)
            self._engine.reset(exchange.stream, H3_NO_ERROR)

    def _credit(self, stream: int, n_bytes: int) -> None:
        self._engine.credit(stream, n_bytes)
        self._flush_soon()

    def _invitation(self, event: RequestReceived) -> Callable[[], None] | None:
        """Return what sends a 100 (Continue), if the client expects one (RFC 9110 section 10.1.1)."""
        if not any(name == b"expect" and value.lower() == b"100-continue" for name, value in event.headers):
            return None

        def invite() -> None:
            if self._engine.respond(event.stream, 100, (), None, fin=False):
                self._flush_soon()

        return invite
