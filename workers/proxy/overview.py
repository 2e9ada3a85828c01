"""The gauges of all servers of a worker, set every second: which are healthy, and their connections. Pure.

Servers of one address, of routes with other settings or of two revisions, are one upstream to an operator: their
connections are added, and it is healthy if all of them are. An upstream that is gone has no gauges any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from velocity_edge.http.upstreams import PoolCounts
from workers.measures import Measures

_HEALTHY: Final = "velocity_upstream_healthy"
_CONNECTIONS: Final = "velocity_upstream_connections"


class Shown(Protocol):
    """A server, as the gauges see it."""

    @property
    def name(self) -> str:
        """Its address, as configured."""

    def usable(self) -> bool:
        """Whether it gets requests while another one does as well."""

    def counts(self) -> PoolCounts:
        """Return the counts of its connections."""


class Overview:
    """The servers that are open."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._servers: list[Shown] = []
        self._named: set[str] = set()

    def add(self, server: Shown) -> None:
        """Show *server* from now on."""
        self._servers.append(server)

    def remove(self, server: Shown) -> None:
        """*server* is closed."""
        if server in self._servers:
            self._servers.remove(server)

    def show(self) -> None:
        """Set the gauges."""
        by_name: dict[str, list[Shown]] = {}
        for server in self._servers:
            by_name.setdefault(server.name, []).append(server)
        for name, servers in by_name.items():
            counts = [server.counts() for server in servers]
            idle = sum(each.idle for each in counts)
            self._measures.gauge(_HEALTHY, float(all(server.usable() for server in servers)), (name,))
            self._measures.gauge(_CONNECTIONS, idle, (name, "idle"))
            self._measures.gauge(_CONNECTIONS, sum(each.open for each in counts) - idle, (name, "running"))
        self._forget(self._named - set(by_name))
        self._named = set(by_name)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._measures.forget(_HEALTHY, (name,))
            self._measures.forget(_CONNECTIONS, (name, "idle"))
            self._measures.forget(_CONNECTIONS, (name, "running"))
