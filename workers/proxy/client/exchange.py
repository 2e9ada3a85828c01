"""One request on one upstream connection: its head, the chunks of its body, its time-outs and its end.

Connections (h1.py, h2.py) report what they parse; the requester waits for the head and reads chunks. This file decides
which outcome an end has: before the head nothing was answered (CLOSED_EARLY, RESPONSE_TIMEOUT), after it the response
is TRUNCATED or IDLE_TIMEOUT. A chunk that is not read stops the reading of the connection, or of the stream: that is
the back-pressure. One timer watches the exchange, whatever it waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from velocity_edge.http.requests import Headers, Outcome
from velocity_edge.http.upstreams import PoolSettings
from workers.proxy.client.answers import Attempt, AttemptFailed

Informational = Callable[[int, Headers], None]

#: Informational responses before a final one. A server sends one or two; a flood would never come to an end.
MAX_INFORMATIONAL: Final = 16
#: Unread bytes of a body above which the connection is not read, and below which it is again.
HIGH_BYTES: Final = 65_536
LOW_BYTES: Final = 16_384


class Link(Protocol):
    """The connection of an exchange, as the exchange uses it."""

    async def send(self, exchange: Exchange, data: bytes) -> None:
        """Write bytes of the request's body; return when there is room for more."""

    def finish(self, exchange: Exchange, trailers: Headers) -> None:
        """End the request."""

    def consumed(self, exchange: Exchange, n_bytes: int) -> None:
        """Bytes of the response's body were read by the requester."""

    def abort(self, exchange: Exchange) -> None:
        """Give up: close the connection, or reset the stream."""


class Exchange:
    """A request that is being answered."""

    def __init__(self, settings: PoolSettings, link: Link, attempt: Attempt, *, tunnel: bool, is_head: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self.link = link
        self.attempt = attempt
        self.tunnel = tunnel
        self.is_head = is_head
        self.on_informational: Informational | None = None
        self._informational = 0
        #: The final response head; status 0 before it.
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.trailers: Headers = ()
        self.head: asyncio.Future[None] = self._loop.create_future()
        #: 100 (Continue), or whatever makes waiting for it pointless.
        self.invited: asyncio.Future[None] = self._loop.create_future()
        self.error: BaseException | None = None
        #: The response is complete.
        self.ended = False
        self.uploaded = True
        self.upload: asyncio.Task[None] | None = None
        #: The next chunk of the request's body has not come from the client yet.
        self.waits_for_client = False
        self._chunks: deque[bytes] = deque()
        self.unread_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._active_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    @property
    def over(self) -> bool:
        """Whether nothing more comes from the connection."""
        return self.ended or self.error is not None

    # --- from the connection ------------------------------------------------------------------------------------------

    def informational(self, status: int, fields: Headers) -> None:
        """A 1xx response that is no upgrade. Too many of them end the attempt."""
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            self.fail(Outcome.INVALID, f"more than {MAX_INFORMATIONAL} informational responses")
            return
        if status == 100:
            _settle(self.invited)
        if self.on_informational is not None:
            self.on_informational(status, fields)

    def respond(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        """The final response head."""
        self.status, self.fields = status, fields
        self.active()
        self._rearm()
        _settle(self.invited)
        _settle(self.head)

    def refuse_tunnel(self) -> None:
        """The answer is no tunnel but a response: what the client sends into it goes nowhere."""
        self.tunnel = False
        if self.upload is not None:
            self.upload.cancel()

    def receive(self, data: bytes) -> None:
        """Bytes of the body."""
        self._chunks.append(data)
        self.unread_bytes += len(data)
        self.attempt.response_bytes += len(data)
        self.active()
        self._wake()

    def end(self, trailers: Headers = ()) -> None:
        """The response is complete."""
        self.trailers = trailers
        self.ended = True
        self._stop()

    def fail(self, outcome: Outcome, reason: str) -> None:
        """The attempt ended. A connection that closes is CLOSED_EARLY before the head and TRUNCATED after it."""
        if self.status and outcome in (Outcome.CLOSED_EARLY, Outcome.INVALID):
            outcome = Outcome.TRUNCATED
        self.fail_with(AttemptFailed(outcome, reason, self.attempt))

    def fail_with(self, error: BaseException) -> None:
        """The attempt ended by *error*, which the requester gets. The connection is given up."""
        if self.over:
            return
        self.error = error
        self._stop()
        self.link.abort(self)

    def active(self) -> None:
        """Something was sent or received."""
        self._active_s = self._loop.time()

    # --- from the requester -------------------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """Return the next chunk, None at the end. Raises `AttemptFailed`."""
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self.ended:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        data = self._chunks.popleft()
        self.unread_bytes -= len(data)
        self._active_s = self._loop.time()
        if not self.over:
            self.link.consumed(self, len(data))
        return data

    def abort(self) -> None:
        """The requester has gone."""
        if not self.over and not self._loop.is_closed():
            self.fail(Outcome.CANCELLED, "cancelled")
        self._chunks.clear()
        self.unread_bytes = 0

    # --- the end, and time --------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.upload is not None and self.upload is not asyncio.current_task(self._loop):
            self.upload.cancel()
        _settle(self.invited)
        _settle(self.head)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            _settle(self._waiter)
            self._waiter = None

    def _watch(self) -> None:
        """Set the timer to the next possible end by time, and end the exchange when it has come."""
        self._timer = None
        settings, now_s = self._settings, self._loop.time()
        answered = bool(self.status)
        if answered and self.unread_bytes:
            self._active_s = now_s  # the client is behind, and its connection has time-outs of its own
        idle = answered or not (self.uploaded or self.tunnel)
        limit_s = (settings.idle_timeout_ns if idle else settings.response_timeout_ns) / 1e9
        due_s = self._active_s + limit_s
        if now_s < due_s:
            self._timer = self._loop.call_at(due_s, self._watch)
        elif answered:
            self.fail(Outcome.IDLE_TIMEOUT, f"nothing passed for {limit_s:g} s")
        elif idle and self.waits_for_client:
            self.fail(Outcome.REQUEST_TIMEOUT, f"the client sent nothing of its body for {limit_s:g} s")
        elif idle:
            self.fail(Outcome.RESPONSE_TIMEOUT, f"the upstream read nothing of the request for {limit_s:g} s")
        else:
            self.fail(Outcome.RESPONSE_TIMEOUT, f"no response for {limit_s:g} s")

    def begin_upload(self) -> None:
        """A request body follows: until its end the idle time-out applies, then the one of the response."""
        self.uploaded = False
        self._rearm()

    def end_upload(self) -> None:
        """The request was sent completely."""
        self.uploaded = True
        self.active()
        self._rearm()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._watch()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
