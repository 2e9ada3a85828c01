"""An answer as it arrives: its head, then its body by chunks, with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aioquic.h3.events import DataReceived, HeadersReceived

from velocity_edge.errors import CannotDo

if TYPE_CHECKING:
    from velocity_edge.client.h3_client import Connection


class Response:
    """An answer as it arrives. Iterate over it for the body, or `await read()`."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self._connection = connection
        self._stream_id = stream_id
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
                self._connection.consumed(self._stream_id, len(chunk))
                yield chunk
            if self.error is not None:
                raise self.error
            if self._ended:
                return
            self._changed.clear()
            await self._connection.wait(self._changed)

    async def read(self, max_bytes: int | None = None) -> bytes:
        """Return the rest of the body. Raises `CannotDo` when it is longer than *max_bytes*."""
        body = bytearray()
        async for chunk in self:
            body += chunk
            if max_bytes is not None and len(body) > max_bytes:
                raise CannotDo(f"cannot take more than {max_bytes} bytes of a response")
        return bytes(body)

    async def wait_for_head(self) -> None:
        """Return when the status is known, or raise what went wrong."""
        while not self.status:
            if self.error is not None:
                raise self.error
            self._changed.clear()
            await self._connection.wait(self._changed)

    def take(self, event: Any) -> None:
        """HTTP/3 has something for this stream."""
        if isinstance(event, HeadersReceived):
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
            status = int(dict(pairs).get(":status", "0"))
            if status >= 200:
                self.status = status
                self.headers = [(name, value) for name, value in pairs if name[:1] != ":"]
        elif isinstance(event, DataReceived) and event.data:
            self._chunks.append(event.data)
        self._ended = self._ended or event.stream_ended
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """There will be no more; readers get *error* after what has come."""
        if not self._ended:
            self.error = error
        self._changed.set()
