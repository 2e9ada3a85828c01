"""A response while it arrives: its header section, then its content in chunks, with back-pressure.

The connection feeds it (`take`, `fail`). It calls back through two functions: one that tells the connection how much
was read, so that the flow control window slides, and one that waits with the connection's timeout.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aioquic.h3.events import DataReceived, HeadersReceived

from velocity_edge.errors import CannotDo, Unavailable


class Response:
    """A response while it arrives. Iterate over it for the content, or `await read()`."""

    def __init__(
        self,
        consumed: Callable[[int], None],
        wait: Callable[[asyncio.Event], Awaitable[None]],
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        """*consumed* gets the number of bytes that a reader took; *wait* returns when its event is set, or raises.

        *abandon* tells the server that the rest is not wanted.
        """
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        #: Fields after the content.
        self.trailers: list[tuple[str, str]] = []
        #: Called for each interim response (1xx).
        self.on_informational: Callable[[int, list[tuple[str, str]]], None] = lambda status, headers: None
        #: Sends the content of the request, where it is produced while the response arrives.
        self.upload: asyncio.Task[None] | None = None
        self._abandon = abandon
        self._consumed = consumed
        self._wait = wait
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def header(self, name: str) -> str | None:
        """Return the first field of that name (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._consumed(len(chunk))
                yield chunk
            if self.error is not None:
                raise self.error
            if self._ended:
                return
            self._changed.clear()
            await self._wait(self._changed)

    async def read(self, max_bytes: int | None = None) -> bytes:
        """Return the rest of the content. Raises `CannotDo` when it is longer than *max_bytes*."""
        body = bytearray()
        async for chunk in self:
            body += chunk
            if max_bytes is not None and len(body) > max_bytes:
                raise CannotDo(f"cannot take more than {max_bytes} bytes of a response")
        return bytes(body)

    async def wait_for_head(self) -> None:
        """Return when the status is known. Raises the error that ended the response."""
        while not self.status:
            if self.error is not None:
                raise self.error
            self._changed.clear()
            await self._wait(self._changed)

    def take(self, event: Any) -> None:
        """Take an HTTP/3 event of this stream."""
        if isinstance(event, HeadersReceived):
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            status = int(dict(pairs).get(":status", "0"))
            fields = [(name, value) for name, value in pairs if name[:1] != ":"]
            if self.status:
                self.trailers = fields
            elif status >= 200:
                self.status = status
                self.headers = fields
            else:
                self.on_informational(status, fields)
        elif isinstance(event, DataReceived) and event.data:
            self._chunks.append(event.data)
        if event.stream_ended:
            self._ended = True
            self._stop_upload()
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End the response: readers get what has arrived, then *error*."""
        if not self._ended:
            self.error = error
            self._stop_upload()
        self._changed.set()

    @property
    def over(self) -> bool:
        """Whether nothing more arrives."""
        return self._ended or self.error is not None

    def abandon(self) -> None:
        """Give up what has not arrived and what has not been read. After the end this does nothing to the server."""
        unread = sum(map(len, self._chunks))
        self._chunks.clear()
        if unread:
            self._consumed(unread)
        if not self.over:
            self.fail(Unavailable("cannot read a response that was abandoned"))
            self._abandon()

    def _stop_upload(self) -> None:
        if self.upload is not None and self.upload is not asyncio.current_task(self.upload.get_loop()):
            self.upload.cancel()
