"""The body of a request, as a handler reads it: chunk by chunk, with flow control.

Chunks arrive from an engine through serve/exchanges.py; a handler iterates over them or reads them at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from velocity_edge.http.requests import Headers


class BodyTooLarge(Exception):
    """The request body is larger than the handler accepts."""


class Body:
    """A request body, chunk by chunk. Reading a chunk extends the peer's flow control credit by its length.

    Unread chunks are bounded by `Limits.stream_window_bytes`, because the peer has no credit for more. When the stream
    or the connection is closed, the handler's task is cancelled, so that waiting for a chunk needs no error.
    """

    __slots__ = ("_chunks", "_credit", "_fin", "_invite", "_read_bytes", "_waiter", "max_bytes", "trailers")

    def __init__(self, credit: Callable[[int], None] | None, invite: Callable[[], None] | None = None) -> None:
        """Without *credit* there is no body. *invite* sends 100 (Continue), before the first wait for a chunk."""
        self._credit = credit
        self._invite = invite
        self._chunks: deque[bytes] = deque()
        self._fin = credit is None
        self._waiter: asyncio.Future[None] | None = None
        #: Fields after the body, once it is complete (RFC 9110 section 6.5).
        self.trailers: Headers = ()
        self._read_bytes = 0
        #: Bound that a middleware has set (middleware/body_limit.py); None: that of the configuration.
        self.max_bytes: int | None = None

    def feed(self, data: bytes, fin: bool, trailers: Headers = ()) -> None:
        """Add a chunk that arrived. The peer does not wait for a 100 (Continue) any more."""
        self._invite = None
        self.trailers = trailers
        if data:
            self._chunks.append(data)
        self._fin = self._fin or fin
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None

    @property
    def complete(self) -> bool:
        """Whether the whole body arrived, read or not."""
        return self._fin

    @property
    def unread(self) -> bool:
        """Whether chunks wait to be read."""
        return bool(self._chunks)

    def hand_over(self) -> list[bytes]:
        """Return unread chunks and forget them; whoever sends them on extends the credit."""
        chunks = list(self._chunks)
        self._chunks.clear()
        return chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield chunks. Raises `BodyTooLarge` above `max_bytes`."""
        while True:
            while self._chunks:
                data = self._chunks.popleft()
                if self._credit is not None:
                    self._credit(len(data))
                self._read_bytes += len(data)
                if self.max_bytes is not None and self._read_bytes > self.max_bytes:
                    raise BodyTooLarge
                yield data
            if self._fin:
                return
            await self._more()

    async def _more(self) -> None:
        """Wait for a chunk or the end."""
        if self._invite is not None:
            self._invite()
            self._invite = None
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    @property
    def waiting_bytes(self) -> int:
        """Bytes that arrived and were not read."""
        return sum(map(len, self._chunks))

    async def peek(self, max_bytes: int) -> bytes:
        """Return the beginning of the body, up to *max_bytes*, when it has arrived; whoever reads gets it again.

        *max_bytes* must be below the stream's window: the peer gets no credit meanwhile.
        """
        while not self._fin and self.waiting_bytes < max_bytes:
            await self._more()
        return b"".join(self._chunks)[:max_bytes]

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
        """Discard unread chunks; return their number of bytes. The caller extends the credit."""
        size = sum(map(len, self._chunks))
        self._chunks.clear()
        return size
