"""What proxies stand on, without sockets: an engine that forwards, a client, names, and a clock that a test moves.

The real ones: tests/integration/test_proxy.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass, field

from velocity_edge.config.upstream_url import parse_upstream
from velocity_edge.http.requests import Event, Headers, Outcome, UpstreamEnded
from velocity_edge.http.upstreams import ForwardRequest, PoolCounts, PoolSettings, SocketAddress
from workers.measures import Measures
from workers.proxy.client.answers import Attempt, AttemptFailed, ResponseBody, UpstreamResponse
from workers.proxy.context import ProxyContext
from workers.proxy.health import PassiveRules
from workers.proxy.overview import Overview
from workers.proxy.server import ServerSettings

NOTHING = PoolCounts(0, 0, 0, 0, 0, 0, 0)


def ended(
    outcome: Outcome = Outcome.COMPLETE,
    status: int = 200,
    *,
    stream: int = 1,
    head_sent: bool | None = None,
    body_sent: bool = False,
    reused: bool = False,
) -> UpstreamEnded:
    """Return the end of an attempt; with an outcome that has no head, status 0."""
    head = outcome in (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.IDLE_TIMEOUT) if head_sent is None else head_sent
    times = (10, 20, 1_000_000, 2_000_000, 3_000_000)
    return UpstreamEnded(stream, 1, outcome, status if head else 0, head, body_sent, reused, *times, "as scripted")


@dataclass
class FakeForwarding:
    """`Forwarding` whose attempts end when a test says so."""

    #: Stream -> pool and request of the attempt that runs.
    running: dict[int, tuple[int, ForwardRequest]] = field(default_factory=dict)
    #: All attempts.
    begun: list[tuple[int, int, ForwardRequest]] = field(default_factory=list)
    fed: dict[int, list[tuple[bytes, bool]]] = field(default_factory=dict)
    addresses: dict[int, tuple[SocketAddress, ...]] = field(default_factory=dict)
    pools: dict[int, PoolSettings] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)

    def fileno(self) -> int:
        return -1

    def turn(self, now_ns: int) -> list[Event]:
        return []

    def open(self, settings: PoolSettings) -> int:
        self.pools[len(self.pools) + 1] = settings
        return len(self.pools)

    def use_addresses(self, pool: int, addresses: Sequence[SocketAddress]) -> None:
        self.addresses[pool] = tuple(addresses)

    def close(self, pool: int) -> None:
        self.closed.append(pool)

    def forward(self, pool: int, stream: int, request: ForwardRequest) -> bool:
        if stream in self.gone:
            return False
        assert stream not in self.running, "one attempt at a time"
        if b" " in request.target:
            raise ValueError("not well formed")
        self.running[stream] = pool, request
        self.begun.append((pool, stream, request))
        return True

    def feed(self, stream: int, data: bytes, fin: bool, trailers: Headers = ()) -> None:
        assert stream in self.running
        self.fed.setdefault(stream, []).append((data, fin))

    def cancel(self, stream: int) -> None:
        raise NotImplementedError

    def counts(self, pool: int) -> PoolCounts:
        return NOTHING

    def end(self, stream: int, outcome: Outcome = Outcome.COMPLETE, **more: object) -> UpstreamEnded:
        """End the attempt of a stream; return the event."""
        del self.running[stream]
        return ended(outcome, stream=stream, **more)  # type: ignore[arg-type]


#: An answer: status and chunks, or how the attempt fails.
Script = tuple[int, list[bytes]] | AttemptFailed


@dataclass
class FakeClient:
    """A client that answers by a script; without one, 200 and `ok`."""

    settings: PoolSettings
    answers: list[Script] = field(default_factory=list)
    requests: list[ForwardRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    addresses: tuple[SocketAddress, ...] = ()
    closed: bool = False
    aborted: int = 0
    #: A request waits for it before it is answered.
    gate: asyncio.Event | None = None

    def use_addresses(self, addresses: Sequence[SocketAddress]) -> None:
        self.addresses = tuple(addresses)

    async def request(
        self,
        request: ForwardRequest,
        body: AsyncIterable[bytes] | bytes | None = None,
        *,
        trailers: Callable[[], Headers] | None = None,
        on_informational: Callable[[int, Headers], None] | None = None,
    ) -> UpstreamResponse:
        self.requests.append(request)
        parts: list[bytes] = []
        if isinstance(body, bytes):
            parts.append(body)
        elif body is not None:
            parts = [chunk async for chunk in body]
        self.bodies.append(b"".join(parts))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else (200, [b"ok"])
        if isinstance(answer, AttemptFailed):
            raise answer
        status, chunks = answer

        async def read() -> bytes | None:
            return chunks.pop(0) if chunks else None

        def abort() -> None:
            self.aborted += 1

        return UpstreamResponse(status, [(b"x", b"y")], ResponseBody(read, abort), Attempt())

    def close(self) -> None:
        self.closed = True

    def counts(self) -> PoolCounts:
        return NOTHING


class FakeWatch:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeNames:
    """Names whose addresses a test tells."""

    watched: dict[str, Callable[[Sequence[str], str], None]] = field(default_factory=dict)
    watches: list[FakeWatch] = field(default_factory=list)
    files: tuple[str, str] = ("", "")

    def use(self, resolv_conf: str, hosts: str) -> None:
        self.files = resolv_conf, hosts

    def watch(self, host: str, on_result: Callable[[Sequence[str], str], None]) -> FakeWatch:
        self.watched[host] = on_result
        self.watches.append(FakeWatch())
        return self.watches[-1]


@dataclass
class Behind:
    """A `ProxyContext` and what is in it."""

    now_s: float = 100.0
    clients: list[FakeClient] = field(default_factory=list)
    names: FakeNames = field(default_factory=FakeNames)
    measures: Measures = field(default_factory=Measures)
    forwarding: FakeForwarding | None = None

    def __post_init__(self) -> None:
        def make_client(settings: PoolSettings) -> FakeClient:
            self.clients.append(FakeClient(settings))
            return self.clients[-1]

        self.context = ProxyContext(
            lambda: self.now_s,
            lambda: 0.5,
            lambda: b"an-id",
            self.measures,
            make_client,
            self.names,
            Overview(self.measures),
            self.forwarding,
        )

    def counted(self, family: str, *labels: str) -> float:
        """Return the value of a series."""
        return self.measures.counter(family, labels).value


def settings(url: str, fails: int = 2, *, max_connections: int = 1024, **more: object) -> ServerSettings:
    pool = PoolSettings(max_connections=max_connections)
    return ServerSettings(parse_upstream(url), pool, PassiveRules(fails, 10.0, 5.0), **more)  # type: ignore[arg-type]
