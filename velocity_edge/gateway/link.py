"""The HTTP/3 connection of the gateway to its node: opened when it is needed, shared, and replaced when it ends.

A connection on which the node has sent GOAWAY finishes its requests and takes no others. A new one resumes the session
of the one before. Attempts that fail are not repeated here: each request makes one of its own, so that a node that is
back is used at once; requests that come while one is made wait for it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from velocity_edge.client.h3_client import connect
from velocity_edge.client.h3_connection import Connection
from velocity_edge.client.options import Options
from velocity_edge.errors import TimedOut
from velocity_edge.tls.client_policy import Session

#: Requests on one connection. What QUIC and HTTP/3 remember of each is freed with the connection.
_MAX_REQUESTS: Final = 10_000


class _Held:
    """An open connection and how many requests use it."""

    def __init__(self, connection: Connection, closing: AsyncExitStack) -> None:
        self.connection = connection
        self.closing = closing
        self.begun = 0
        self.running = 0
        self.suspect = False

    @property
    def usable(self) -> bool:
        return self.connection.usable and not self.suspect and self.begun < _MAX_REQUESTS


class Lease:
    """A connection for one request: `async with link.lease() as connection`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._held: _Held | None = None

    async def __aenter__(self) -> Connection:
        self._held = await self._link._take()
        return self._held.connection

    async def __aexit__(self, *_: object) -> None:
        assert self._held is not None
        self._held.running -= 1
        await self._link._tidy()

    def doubt(self) -> None:
        """The node did not answer on this connection: later requests use another."""
        if self._held is not None:
            self._held.suspect = True


class Link:
    """The connections to one node."""

    def __init__(self, url: str, options: Options, connect_timeout_s: float) -> None:
        """*options*.timeout_s: the longest time in which nothing passes during a response."""
        self._url = url
        self._options = options
        self._connect_timeout_s = connect_timeout_s
        self._open: list[_Held] = []
        self._connecting = asyncio.Lock()
        self._session: Session | None = None
        #: Connections since the start, for people and tests.
        self.connects = 0

    def lease(self) -> Lease:
        """Return a context manager around a connection. It raises a `VelocityError` when there is none."""
        return Lease(self)

    async def close(self) -> None:
        """Close all connections."""
        for held in self._open:
            await held.closing.aclose()
        self._open.clear()

    async def _take(self) -> _Held:
        held = self._usable()
        if held is None:
            async with self._connecting:
                held = self._usable() or await self._connect()
        held.begun += 1
        held.running += 1
        return held

    def _usable(self) -> _Held | None:
        return next((held for held in reversed(self._open) if held.usable), None)

    async def _connect(self) -> _Held:
        for held in self._open:
            self._remember(held)
        options = replace(self._options, session=self._session)
        closing = AsyncExitStack()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await closing.enter_async_context(connect(self._url, options))
        except TimeoutError:
            raise TimedOut(f"cannot reach {self._url} within {self._connect_timeout_s:g} s") from None
        self.connects += 1
        held = _Held(connection, closing)
        self._open.append(held)
        await self._tidy()
        return held

    def _remember(self, held: _Held) -> None:
        """Keep the newest session for the next connection."""
        if held.connection.sessions:
            self._session = held.connection.sessions[-1]

    async def _tidy(self) -> None:
        """Close connections that are not usable and have no request."""
        for held in [held for held in self._open if not held.usable and not held.running]:
            if held in self._open:
                self._open.remove(held)
                self._remember(held)
                await held.closing.aclose()
