"""What all proxies of a worker share: clock, names, measures, and the two ways to an upstream.

An engine that forwards by itself (http/upstreams.py, `Forwarding`) is known when it was opened, after the first
revision was prepared; until then, and with other engines, requests go through the Python client.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from velocity_edge.http.requests import Headers
from velocity_edge.http.upstreams import Forwarding, ForwardRequest, PoolCounts, PoolSettings, SocketAddress
from workers.measures import Measures
from workers.proxy.client.answers import UpstreamResponse
from workers.proxy.overview import Overview


class UpstreamClient(Protocol):
    """All connections of one worker to one server, in Python (workers/proxy/client)."""

    def use_addresses(self, addresses: Sequence[SocketAddress]) -> None:
        """Connect to these from now on."""

    async def request(
        self,
        request: ForwardRequest,
        body: AsyncIterable[bytes] | bytes | None = None,
        *,
        trailers: Callable[[], Headers] | None = None,
        on_informational: Callable[[int, Headers], None] | None = None,
    ) -> UpstreamResponse:
        """Return the response when its head is there. Raises `AttemptFailed`."""

    def close(self) -> None:
        """Close idle connections now, and the others with their last request."""

    def counts(self) -> PoolCounts:
        """Return the counts of the pool."""


class Watch(Protocol):
    """A name that is resolved as long as it is watched."""

    def close(self) -> None:
        """Stop."""


class Names(Protocol):
    """Resolves names, again and again (dns.py)."""

    def use(self, resolv_conf: str, hosts: str) -> None:
        """Use the content of these files from now on."""

    def watch(self, host: str, on_result: Callable[[Sequence[str], str], None]) -> Watch:
        """Call *on_result* with the addresses of *host*, again when they change; with none and a reason on error."""


@dataclass(slots=True)
class ProxyContext:
    """The surroundings of the proxies of one worker."""

    #: Monotonic, in seconds.
    clock: Callable[[], float]
    #: From 0 to 1, not 1.
    random: Callable[[], float]
    #: A request id that nobody can guess.
    new_id: Callable[[], bytes]
    measures: Measures
    make_client: Callable[[PoolSettings], UpstreamClient]
    names: Names
    overview: Overview
    forwarding: Forwarding | None = None
