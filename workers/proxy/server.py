"""One server in one worker: its addresses, its connections, its health. A resource (workers/handlers/resources.py).

It lives as long as a revision names it with the same settings, so connections and what is known of its health survive a
reload that does not change it. Which requests it gets is decided in group.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from velocity_edge.config.upstream_url import UpstreamUrl
from velocity_edge.http.requests import Outcome, UpstreamEnded
from velocity_edge.http.upstreams import Forwarding, PoolCounts, PoolSettings, SocketAddress
from workers.proxy.context import ProxyContext, UpstreamClient, Watch
from workers.proxy.health import ActiveRules, Health, PassiveRules
from workers.proxy.probes import Probe, ProbeRules
from workers.proxy.series import ServerSeries

log = logging.getLogger(__name__)

#: Requests on one HTTP/2 connection; servers permit 100 to 250 at least (RFC 9113 section 6.5.2).
_STREAMS: Final = 100
_NOTHING: Final = PoolCounts(0, 0, 0, 0, 0, 0, 0)
#: Outcomes that say nothing about the server.
_CLIENTS: Final = frozenset(
    (Outcome.CLIENT_GONE, Outcome.CANCELLED, Outcome.REQUEST_TOO_LARGE, Outcome.REQUEST_TIMEOUT)
)


#: As an int: what an engine hands out.
_COMPLETE: Final = int(Outcome.COMPLETE)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """By what servers differ; equal settings are the same server."""

    url: UpstreamUrl
    pool: PoolSettings
    passive: PassiveRules = field(default_factory=PassiveRules)
    #: Ranges of statuses that count as failures, both ends included.
    bad_statuses: tuple[tuple[int, int], ...] = ()
    probe: ProbeRules | None = None

    @property
    def max_running(self) -> int:
        """Requests that run at the same time; more wait."""
        multiplexed = self.pool.protocol == "h2"
        return self.pool.max_connections * (_STREAMS if multiplexed else 1)


class Server:
    """A server."""

    def __init__(self, settings: ServerSettings, context: ProxyContext) -> None:
        self.settings = settings
        self.name = str(settings.url)
        active = settings.probe.rules if settings.probe is not None else ActiveRules()
        self.health = Health(active, settings.passive)
        self.running = 0
        #: Of the settings, for each request.
        self._max_running = settings.max_running
        self.authority = settings.url.authority.encode()
        self.requests = 0
        self.failures = 0
        self.retries = 0
        #: Called when it can take another request: it has room, an address, or it is healthy again.
        self.on_room: list[Callable[[], None]] = []
        #: Why it has no address; "" while it has one, or the first answer is awaited.
        self.unresolved = ""
        self._context = context
        self._series = ServerSeries(context.measures, self.name)
        self._addresses: tuple[SocketAddress, ...] = ()
        self._pool: tuple[Forwarding, int] | None = None
        self._client: UpstreamClient | None = None
        self._watch: Watch | None = None
        self._probe: Probe | None = None
        self._closed = False
        context.overview.add(self)
        url = settings.url
        if not url.is_name:
            self._addresses = (url.socket or (url.host, url.port),)

    def start(self) -> None:
        """Begin to resolve its name and to check it. Requires a running loop; further calls do nothing."""
        if self._closed:
            return
        if self.settings.url.is_name and self._watch is None:
            self._watch = self._context.names.watch(self.settings.url.host, self._on_addresses)
        if self.settings.probe is not None and self._probe is None:
            client = self._context.make_client(self.settings.probe.pool(self.settings.pool))
            client.use_addresses(self._addresses)
            self._probe = Probe(self.settings.probe, self.settings.url, client, self._context, self._on_probe)
            self._probe.start()

    def close(self) -> None:
        """Close its connections when their requests have ended."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        if self._probe is not None:
            self._probe.close()
        if self._pool is not None:
            forwarding, pool = self._pool
            forwarding.close(pool)
        if self._client is not None:
            self._client.close()
        self._context.overview.remove(self)

    @property
    def awaited(self) -> bool:
        """Whether its name has not been resolved yet: a request can wait for that."""
        return not self._addresses and not self.unresolved

    @property
    def has_room(self) -> bool:
        """Whether it can take a request now."""
        return self.running < self._max_running and bool(self._addresses or self.unresolved)

    def pool(self, forwarding: Forwarding) -> int:
        """Return its pool in the engine. Raises `VelocityError` on unusable TLS material."""
        if self._pool is None or self._pool[0] is not forwarding:
            self._pool = forwarding, forwarding.open(self.settings.pool)
            forwarding.use_addresses(self._pool[1], self._addresses)
        return self._pool[1]

    def client(self) -> UpstreamClient:
        """Return its connections in Python."""
        if self._client is None:
            self._client = self._context.make_client(self.settings.pool)
            self._client.use_addresses(self._addresses)
        return self._client

    def begin(self) -> None:
        """An attempt begins."""
        self.running += 1
        self.requests += 1

    def retried(self) -> None:
        """An attempt that follows one on this server begins."""
        self.retries += 1
        self._series.retried()

    def ended(self, end: UpstreamEnded, *, tunnel: bool = False) -> None:
        """Take in how an attempt ended. *tunnel*: it became one (WebSocket), and its client can end it in any way."""
        self.running -= 1
        self._series.ended(end)
        failed = False if tunnel and end.head_sent else self._failed(end)
        if failed is not None:
            self.failures += failed
            if self.health.on_attempt(failed, self._context.clock(), end.reason or f"status {end.status}"):
                self._series.ejected()
                log.warning(
                    "upstream %s: left out for a while after failures: %s", self.name, self.health.reason or "unknown"
                )
        self._notify()

    def counts(self) -> PoolCounts:
        """Return the counts of its connections."""
        found = [_NOTHING]
        if self._pool is not None:
            found.append(self._pool[0].counts(self._pool[1]))
        if self._client is not None:
            found.append(self._client.counts())
        return PoolCounts(
            sum(each.open for each in found),
            sum(each.idle for each in found),
            sum(each.running for each in found),
            sum(each.connects for each in found),
            sum(each.connects_failed for each in found),
            sum(each.requests for each in found),
            sum(each.reused for each in found),
        )

    def usable(self) -> bool:
        """Whether it gets requests while another one does as well."""
        return not self.unresolved and self.health.usable(self._context.clock())

    def _failed(self, end: UpstreamEnded) -> bool | None:
        """Return whether the server is to blame; None when the attempt says nothing about it."""
        bad = self.settings.bad_statuses
        if bad and any(low <= end.status <= high for low, high in bad):
            return True
        if end.outcome == _COMPLETE:
            return False
        if end.outcome in _CLIENTS or end.outcome == Outcome.IDLE_TIMEOUT:
            # Streams of events are silent now and then: clients must not be able to have a server left out by them.
            return False if end.head_sent else None
        # A kept-alive connection that the server closed meanwhile is no failure.
        return None if end.outcome == Outcome.CLOSED_EARLY and end.reused else True

    def _on_addresses(self, addresses: Sequence[str], reason: str) -> None:
        port = self.settings.url.port
        if not addresses:
            if reason != self.unresolved:
                log.warning("upstream %s: cannot resolve its name: %s", self.name, reason)
            self.unresolved = reason if not self._addresses else ""
        else:
            self.unresolved = ""
            self._addresses = tuple((address, port) for address in addresses)
            if self._pool is not None:
                self._pool[0].use_addresses(self._pool[1], self._addresses)
            for client in (self._client, self._probe.client if self._probe is not None else None):
                if client is not None:
                    client.use_addresses(self._addresses)
        self._notify()

    def _on_probe(self, good: bool, reason: str) -> None:
        if self.health.on_probe(good, reason):
            if good:
                log.info("upstream %s: healthy again", self.name)
            else:
                log.warning("upstream %s: not healthy: %s", self.name, reason)
            self._notify()

    def _notify(self) -> None:
        for listener in self.on_room if len(self.on_room) == 1 else tuple(self.on_room):
            listener()
