"""All connections of one worker to one server: which one a request gets, and how long they are kept.

A request takes the connection that became free last, so that those above the need grow old and are closed; otherwise
it opens one, or waits for one when there are `max_connections`. Requests that wait while the first HTTP/2 connection
is opened share it. Which server, and whether another attempt follows, is decided by the caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolCounts, PoolSettings, SocketAddress
from workers.proxy.client import tls
from workers.proxy.client.answers import Attempt, AttemptFailed
from workers.proxy.client.connect import Connection, connect
from workers.proxy.client.fields import RequestHead
from workers.proxy.client.h2 import H2Connection


@dataclass(slots=True)
class _Totals:
    connects: int = 0
    connects_failed: int = 0
    requests: int = 0
    reused: int = 0
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)


class Pool:
    """The connections. All of it runs in one event loop."""

    def __init__(self, settings: PoolSettings) -> None:
        """Raises `VelocityError` on unusable TLS material."""
        self._settings = settings
        self._addresses: list[SocketAddress] = []
        #: Free ones last; every connection that is not closed.
        self._connections: list[Connection] = []
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._totals = _Totals()
        self._connecting = 0
        self._is_h2 = settings.protocol == "h2"
        self._closed = False
        if settings.tls is not None:
            tls.context(settings.tls, ("http/1.1",))

    def use_addresses(self, addresses: Sequence[SocketAddress]) -> None:
        """Connect to these from now on, in this order. Idle connections to others are closed."""
        self._addresses = list(addresses)
        for connection in list(self._connections):
            if connection.address not in self._addresses:
                connection.close()

    def close(self) -> None:
        """Close idle connections now and the others with their last request."""
        self._closed = True
        self._wake(all_of_them=True)
        for connection in list(self._connections):
            connection.close()

    def counts(self) -> PoolCounts:
        """Return the counts of the pool."""
        total, connections = self._totals, self._connections
        return PoolCounts(
            open=len(connections),
            idle=sum(not connection.running for connection in connections),
            running=sum(connection.running for connection in connections),
            connects=total.connects,
            connects_failed=total.connects_failed,
            requests=total.requests,
            reused=total.reused,
        )

    # --- connections --------------------------------------------------------------------------------------------------

    async def acquire(self, head: RequestHead, attempt: Attempt) -> Connection:
        """Return a connection on which the request must begin at once. Raises `AttemptFailed`."""
        limit_s = self._settings.connect_timeout_ns / 1e9
        try:
            connection = self._free(head, attempt)
            if connection is None:
                async with asyncio.timeout(limit_s):
                    connection = await self._find(head, attempt)
        except TimeoutError:
            raise AttemptFailed(Outcome.CONNECT_TIMEOUT, f"no connection within {limit_s:g} s", attempt) from None
        except AttemptFailed as error:
            raise AttemptFailed(error.outcome, error.reason, attempt) from None
        self._totals.requests += 1
        self._totals.reused += attempt.reused
        attempt.address = connection.address
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        return connection

    def _free(self, head: RequestHead, attempt: Attempt) -> Connection | None:
        if self._closed:
            raise AttemptFailed(Outcome.CONNECT_FAILED, "the pool is closed")
        h1_only = head.tunnel and self._settings.protocol == "auto"
        for connection in reversed(self._connections):
            if connection.free and not (h1_only and connection.multiplexed and not self._tunnels(connection)):
                self._check_tunnel(head, connection)
                attempt.reused = connection.requests > 0
                return connection
        return None

    async def _find(self, head: RequestHead, attempt: Attempt) -> Connection:
        h1_only = head.tunnel and self._settings.protocol == "auto"
        while True:
            connection = self._free(head, attempt)
            if connection is not None:
                return connection
            shared = self._is_h2 and self._connecting and not h1_only
            if not shared and len(self._connections) + self._connecting < self._settings.max_connections:
                connection = await self._connect(h1_only)
                if connection.free:
                    self._check_tunnel(head, connection)
                    return connection
                continue
            await self._wait()

    @staticmethod
    def _tunnels(connection: Connection) -> bool:
        return isinstance(connection, H2Connection) and connection.tunnels

    def _check_tunnel(self, head: RequestHead, connection: Connection) -> None:
        if head.tunnel and connection.multiplexed and not self._tunnels(connection):
            raise AttemptFailed(Outcome.INVALID, "the upstream has no WebSocket over HTTP/2 (RFC 8441)")

    async def _connect(self, h1_only: bool) -> Connection:
        self._connecting += 1
        self._totals.connects += 1
        try:
            made = await connect(self._addresses, self._settings, self._on_changed, h1_only=h1_only)
        except BaseException:
            self._totals.connects_failed += 1
            raise
        finally:
            self._connecting -= 1
            self._wake(all_of_them=self._is_h2)
        self._is_h2 = made.multiplexed or (self._is_h2 and h1_only)
        self._connections.append(made)
        if self._closed or made.address not in self._addresses:
            made.close()
        return made

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._totals.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # it was another one's turn
            raise

    def _wake(self, *, all_of_them: bool = False) -> None:
        waiters = self._totals.waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not all_of_them:
                    return

    def _on_changed(self, connection: Connection) -> None:
        """A connection became free, has room for another stream, or is closed."""
        if connection not in self._connections:
            return
        if connection.closed:
            self._connections.remove(connection)
            timer = self._timers.pop(connection, None)
            if timer is not None:
                timer.cancel()
        elif not connection.running:
            self._keep(connection)
        self._wake(all_of_them=connection.multiplexed)

    def _keep(self, connection: Connection) -> None:
        """Keep an idle connection for a while; the one that is idle for longest goes when there are too many."""
        if self._closed or connection.retired:
            connection.close()
            return
        self._connections.remove(connection)
        self._connections.append(connection)
        if connection not in self._timers:
            delay_s = self._settings.keepalive_timeout_ns / 1e9
            self._timers[connection] = asyncio.get_running_loop().call_later(delay_s, self._retire, connection)
        if len(self._timers) > self._settings.max_idle_connections:
            self._retire(next(iter(self._timers)))

    def _retire(self, connection: Connection) -> None:
        self._timers.pop(connection).cancel()
        connection.close()
