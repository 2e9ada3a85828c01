"""The seam between a proxy's policy, in Python, and an engine that carries requests to upstreams by itself.

Policy chooses a pool and the fields that change, once per request; bodies, heads and trailers pass between the client's
stream and the upstream's connection without becoming Python objects, with back-pressure both ways. The engine tells the
end of each attempt once (`UpstreamEnded`). Which server, retries, health and limits of a route are decided in
workers/proxy; pools, connections, parsing and time-outs are the engine's. An engine without `Forwarding` is served by
workers/proxy/client, which does the same in Python.

A pool is all connections of one worker to one server with one set of settings. Its handle is never used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from velocity_edge.http.requests import Event, Headers

#: ("192.0.2.1", 8080), ("2001:db8::1", 8080), or the path of a unix socket. Never a name: policy resolves names.
SocketAddress = tuple[str, int] | str


@dataclass(frozen=True, slots=True)
class TlsClient:
    """How to reach a server by TLS. PEM, read by the supervisor: a worker opens no file."""

    server_name: str
    #: None: the system's certificate authorities.
    ca_pem: bytes | None = None
    certificate_pem: bytes | None = None
    private_key_pem: bytes | None = field(default=None, repr=False)
    verify: bool = True


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Everything by which pools differ. Times in nanoseconds, sizes in bytes."""

    #: `auto`: by ALPN (TLS only). Without TLS `h2` is with prior knowledge (h2c).
    protocol: Literal["h1", "h2", "auto"] = "h1"
    tls: TlsClient | None = None
    connect_timeout_ns: int = 10_000_000_000
    #: Until the response's header section, after the request was sent.
    response_timeout_ns: int = 30_000_000_000
    #: Between two chunks of a body, either way. Tunnels (WebSocket) too.
    idle_timeout_ns: int = 90_000_000_000
    #: A connection without a request is closed after this time, below the upstream's own limit.
    keepalive_timeout_ns: int = 60_000_000_000
    max_connections: int = 1024
    max_idle_connections: int = 256
    max_requests_per_connection: int = 0  # 0: any number
    max_head_bytes: int = 65_536
    max_fields: int = 128
    tcp_keepalive_ns: int = 60_000_000_000


@dataclass(slots=True)
class ForwardRequest:
    """One request to an upstream. Names of fields are in lower case; all of it was validated by the engine.

    Not changed after it was made. It is not frozen, because that costs 2 us for each request.
    """

    method: bytes
    #: Origin form: path and query.
    target: bytes
    authority: bytes
    #: As received. The engine drops connection-specific fields, and `host`.
    fields: Headers
    #: Names of `fields` that are not passed on.
    drop: Sequence[bytes] = ()
    #: Fields that are added.
    add: Headers = ()
    #: "websocket": an extended CONNECT (RFC 9220) that becomes an upgrade (HTTP/1.1) or stays one (HTTP/2, RFC 8441).
    protocol: bytes = b""
    max_body_bytes: int = 16 * 1024 * 1024
    #: Changes of the response's header section (workers/http.py, HeadEdit): remove, set, add, default.
    response_remove: Sequence[bytes] = ()
    response_set: Headers = ()
    response_add: Headers = ()
    response_default: Headers = ()


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """What a pool has now, and since it was opened."""

    open: int
    idle: int
    running: int
    connects: int
    connects_failed: int
    requests: int
    reused: int


@runtime_checkable
class CanForward(Protocol):
    """An engine that carries requests to upstreams by itself."""

    def forwarding(self) -> Forwarding:
        """Return its upstream connections: always the same object."""


class Forwarding(Protocol):
    """Upstream connections of one worker: `NativeEngine.forwarding()`. One descriptor to watch, no thread."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `turn` has work: sockets and time-outs."""

    def turn(self, now_ns: int) -> list[Event]:
        """Process what is ready. Afterwards the endpoint must flush the engine's packets."""

    def open(self, settings: PoolSettings) -> int:
        """Return the handle of a new pool. Raises `VelocityError` on unusable TLS material."""

    def use_addresses(self, pool: int, addresses: Sequence[SocketAddress]) -> None:
        """Connect to these from now on, in this order, happy eyeballs (RFC 8305). Idle ones to others are closed."""

    def close(self, pool: int) -> None:
        """Close idle connections now and the others with their last request. The handle is invalid afterwards."""

    def forward(self, pool: int, stream: int, request: ForwardRequest) -> bool:
        """Begin an attempt. False: the stream or the pool is gone; otherwise exactly one `UpstreamEnded` follows.

        After an attempt without a response head the stream is as before, so that another attempt, or `respond`, can
        follow. Request body bytes that were not sent to an upstream are kept for the next attempt.
        """

    def feed(self, stream: int, data: bytes, fin: bool, trailers: Headers = ()) -> None:
        """Give body bytes that had become Python objects before `forward`. Credit is given when they are sent."""

    def cancel(self, stream: int) -> None:
        """End the attempt: `UpstreamEnded` with CANCELLED follows; a response that has begun is reset."""

    def counts(self, pool: int) -> PoolCounts:
        """Return the counts of a pool."""
