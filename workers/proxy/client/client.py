"""Requests to one server: `Client`, what engines without `Forwarding` use, and whatever asks something by itself.

One request is: its head, checked (fields.py); a connection (pool.py); the upload beside the response (upload.py,
exchange.py). Which server, and whether another attempt follows, is decided by the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Final

from velocity_edge.http.requests import Headers, Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolCounts, PoolSettings, SocketAddress
from workers.proxy.client.answers import Attempt, AttemptFailed, ResponseBody, UpstreamResponse, edit_of
from workers.proxy.client.exchange import Exchange, Informational
from workers.proxy.client.fields import request_head
from workers.proxy.client.pool import Pool
from workers.proxy.client.upload import upload

_WITHOUT_CONTENT: Final = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"))


def _no_trailers() -> Headers:
    return ()


class Client:
    """A server and the connections to it. All of it runs in one event loop."""

    def __init__(self, settings: PoolSettings) -> None:
        """Raises `VelocityError` on unusable TLS material."""
        self._settings = settings
        self._scheme = b"http" if settings.tls is None else b"https"
        self._pool = Pool(settings)

    def use_addresses(self, addresses: Sequence[SocketAddress]) -> None:
        """Connect to these from now on, in this order. Idle connections to others are closed."""
        self._pool.use_addresses(addresses)

    def close(self) -> None:
        """Close idle connections now and the others with their last request."""
        self._pool.close()

    def counts(self) -> PoolCounts:
        """Return the counts of the pool."""
        return self._pool.counts()

    async def request(
        self,
        request: ForwardRequest,
        body: AsyncIterable[bytes] | bytes | None = None,
        *,
        trailers: Callable[[], Headers] | None = None,
        on_informational: Informational | None = None,
    ) -> UpstreamResponse:
        """Send a request and return the response when its head is there. Raises `AttemptFailed`, and what *body* does.

        *trailers* is called after the body. *on_informational* gets every 1xx response, also 100 (Continue), at which
        the body begins to be read. Raises `ValueError` when the request is not well formed. On cancellation the
        connection is closed, or the stream reset.
        """
        began_ns = time.monotonic_ns()
        attempt = Attempt()
        length = len(body) or None if isinstance(body, bytes) else None if body is None else -1
        head = request_head(request, self._scheme, length)
        if head.length is not None and head.length > request.max_body_bytes and not head.tunnel:
            raise AttemptFailed(
                Outcome.REQUEST_TOO_LARGE, f"a request body of more than {request.max_body_bytes} bytes", attempt
            )
        chunks = _chunks(body) if head.length is not None else None
        if chunks is not None and head.length == -1 and request.method in _WITHOUT_CONTENT and not head.tunnel:
            first = await self._peek(chunks, attempt)
            if first is None:
                chunks, head = None, request_head(request, self._scheme, None)
            else:
                chunks = _again(first, chunks)
        connection = await self._pool.acquire(head, attempt)
        attempt.connect_ns = time.monotonic_ns() - began_ns
        exchange = Exchange(self._settings, connection, attempt, tunnel=head.tunnel, is_head=request.method == b"HEAD")
        exchange.on_informational = on_informational
        try:
            if chunks is not None:
                exchange.begin_upload()
            connection.begin(head, exchange)
            if chunks is not None and not exchange.over:
                exchange.upload = asyncio.get_running_loop().create_task(
                    upload(exchange, chunks, trailers or _no_trailers, request.max_body_bytes, expects=head.expects)
                )
            await exchange.head
        except BaseException:
            exchange.abort()
            raise
        if exchange.error is not None and not exchange.status:
            raise exchange.error
        attempt.head_ns = time.monotonic_ns() - began_ns
        edit = edit_of(request)
        fields = exchange.fields if edit is None else list(edit.apply(exchange.fields))
        read = ResponseBody(exchange.read, exchange.abort)
        return UpstreamResponse(exchange.status, fields, read, attempt, lambda: exchange.trailers)

    async def _peek(self, chunks: AsyncIterator[bytes], attempt: Attempt) -> bytes | None:
        """Return the first chunk: a GET whose end came in a frame of its own has no body, and needs no framing."""
        try:
            async with asyncio.timeout(self._settings.idle_timeout_ns / 1e9):
                first = await anext(chunks, None)
        except TimeoutError:
            raise AttemptFailed(Outcome.REQUEST_TIMEOUT, "the client sent nothing of its body", attempt) from None
        attempt.body_sent = first is not None  # read, so that another attempt would lack it
        return first


def _chunks(body: AsyncIterable[bytes] | bytes | None) -> AsyncIterator[bytes]:
    if body is None or isinstance(body, bytes):
        return _whole(body or b"")
    return aiter(body)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
