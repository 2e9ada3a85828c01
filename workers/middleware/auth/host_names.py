"""Addresses of the servers that authentication asks: names are watched as those of upstreams (workers/proxy/dns.py).

A name is watched from its first use on, so that a server that is asked about each request costs no query for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from workers.proxy.context import Names, Watch

#: Names come from the configuration and from discovery documents: a handful. Others are resolved once and forgotten.
MAX_WATCHED: Final = 32


class HostNames:
    """The names that one worker asks for authentication. A `Resource`; a `Resolver` of workers/proxy/client."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._watches: dict[str, Watch] = {}
        self._found: dict[str, Sequence[str]] = {}

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of *host*; [] when it has none now. Waits for the first answer only."""
        found = self._found.get(host)
        if found:
            return list(found)
        first: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()

        def told(addresses: Sequence[str], reason: str) -> None:
            if not first.done():
                first.set_result(addresses)

        watch = self._names.watch(host, told)
        try:
            addresses = await first
            if addresses and host not in self._watches and len(self._watches) < MAX_WATCHED:
                self._watches[host] = self._names.watch(host, lambda new, reason: self._keep(host, new))
            return list(addresses)
        finally:
            watch.close()

    def _keep(self, host: str, addresses: Sequence[str]) -> None:
        """Keep the newest addresses; the last good ones while there is no answer."""
        if addresses:
            self._found[host] = addresses

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._found.clear()
