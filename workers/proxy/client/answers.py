"""What a request to an upstream ends in: a response whose body is read later, or the failure of the attempt.

Both tell what the access log and the retry policy ask for: the server, the times, whether the connection was a
kept-alive one and whether bytes of the request's body had been sent. They decide nothing; which outcome a failure has
is decided where it happens (exchange.py, pool.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from velocity_edge.http.requests import Headers, Outcome
from velocity_edge.http.upstreams import ForwardRequest, SocketAddress
from workers.http import HeadEdit


@dataclass(slots=True)
class Attempt:
    """The facts of one attempt, kept up to date while it runs. Times in ns from its begin; 0: not reached."""

    address: SocketAddress = ""
    reused: bool = False
    body_sent: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    connect_ns: int = 0
    head_ns: int = 0


class AttemptFailed(Exception):
    """An attempt that was not answered, or not completely. `reason` is for the log and has no bytes of the peer."""

    def __init__(self, outcome: Outcome, reason: str, attempt: Attempt | None = None) -> None:
        super().__init__(f"{outcome.name}: {reason}")
        self.outcome = outcome
        self.reason = reason
        self.attempt = attempt or Attempt()

    @property
    def body_sent(self) -> bool:
        """Whether bytes of the request's body were sent, so that another attempt would lack them."""
        return self.attempt.body_sent

    @property
    def reused(self) -> bool:
        """Whether the attempt used a kept-alive connection, which the server may have closed meanwhile."""
        return self.attempt.reused


class ResponseBody:
    """The chunks of a body, in order. Raises `AttemptFailed` when it does not come to its end.

    A body that is abandoned closes its connection, or resets its stream: at `aclose`, on cancellation of a read, and
    at the latest when nothing refers to it any more.
    """

    __slots__ = ("_abort", "_over", "_read")

    def __init__(self, read: Callable[[], Awaitable[bytes | None]], abort: Callable[[], None]) -> None:
        self._read = read
        self._abort = abort
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await self._read()
        except BaseException:
            self.abort()
            raise
        if data is None:
            self._over = True
            raise StopAsyncIteration
        return data

    def abort(self) -> None:
        """Abandon what has not been read."""
        if not self._over:
            self._over = True
            self._abort()

    async def aclose(self) -> None:
        """Abandon what has not been read."""
        self.abort()

    def __del__(self) -> None:
        self.abort()


@dataclass(slots=True)
class UpstreamResponse:
    """A response whose header section was received. Fields: lower case, without those of the connection.

    The answer to a WebSocket request has status 200 when the tunnel is open; then `body` is what the server sends.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: ResponseBody
    attempt: Attempt
    _trailers: Callable[[], Headers] = field(repr=False, default=tuple)

    @property
    def trailers(self) -> Headers:
        """The fields after the body; () before its end."""
        return self._trailers()

    async def aclose(self) -> None:
        """Abandon what has not been read of the body."""
        self.body.abort()


def edit_of(request: ForwardRequest) -> HeadEdit | None:
    """Return the changes of the response's header section that *request* asks for."""
    if not (request.response_remove or request.response_set or request.response_add or request.response_default):
        return None
    return HeadEdit(
        frozenset(request.response_remove),
        tuple(request.response_set),
        tuple(request.response_add),
        tuple(request.response_default),
    )
