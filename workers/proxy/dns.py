"""Addresses of the names of upstreams, resolved again when their records expire (dnspython).

A worker opens no file: /etc/resolv.conf and /etc/hosts come with the configuration. A name is resolved once for all
servers that have it. While an answer is missing, the last good one stays in use, and the next attempt waits longer each
time. A name with several addresses is one server: connections try them one after the other. To spread requests over
several, list them as `upstreams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.resolver

log = logging.getLogger(__name__)

#: A TTL of 0 asks for a query per connection; a second is as good, and bounded.
_MIN_TTL_S: Final = 1.0
_MAX_TTL_S: Final = 3600.0
#: How often the hosts file's names are looked at: it has no TTL.
_HOSTS_TTL_S: Final = 60.0
_MAX_BACKOFF_S: Final = 60.0
#: Of one query with all of its repetitions.
_LIFETIME_S: Final = 5.0
#: More addresses of one name than a client would ever try.
_MAX_ADDRESSES: Final = 16

OnResult = Callable[[Sequence[str], str], None]


class CannotResolve(Exception):
    """There is no address now; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses, IPv6 first, and how long they are valid."""

    addresses: tuple[str, ...]
    ttl_s: float


Lookup = Callable[[str], Awaitable[Found]]


class Resolver:
    """The names of one worker."""

    def __init__(self, random: Callable[[], float], lookup: Lookup | None = None, port: int = 53) -> None:
        """*random*: from 0 to 1. *lookup* in place of the DNS; *port* of the name servers."""
        self._random = random
        self._port = port
        self._lookup = lookup or self._ask
        self._files = ("", "")
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._resolver = _resolver("")
        self._names: dict[str, _Name] = {}

    def use(self, resolv_conf: str, hosts: str) -> None:
        """Use the content of these files from now on; if one is another, all names are resolved again."""
        if (resolv_conf, hosts) == self._files:
            return
        self._files = resolv_conf, hosts
        self._resolver = _resolver(resolv_conf)
        self._resolver.port = self._port
        self._hosts = parse_hosts(hosts)
        for name in self._names.values():
            name.again.set()

    def watch(self, host: str, on_result: OnResult) -> _Watch:
        """Call *on_result* with the addresses of *host* and again when they change; with none and why on failure."""
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = _Name(host, self._lookup, self._random)
        name.listeners.append(on_result)
        if name.found:
            on_result(name.found, "")
        name.start()
        return _Watch(self, name, on_result)

    def forget(self, name: _Name, on_result: OnResult) -> None:
        """Stop calling *on_result*, and stop resolving the name when nobody else watches it."""
        if on_result in name.listeners:
            name.listeners.remove(on_result)
        if not name.listeners and self._names.get(name.host) is name:
            del self._names[name.host]
            name.stop()

    async def _ask(self, host: str) -> Found:
        if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
            return Found(("::1", "127.0.0.1"), _MAX_TTL_S)
        if addresses := self._hosts.get(host):
            return Found(addresses, _HOSTS_TTL_S)
        try:
            answers = await self._resolver.resolve_name(host, lifetime=_LIFETIME_S, search=True)
        except dns.resolver.NXDOMAIN:
            raise CannotResolve("no such name") from None
        except dns.resolver.NoAnswer:
            raise CannotResolve("the name has no address") from None
        except dns.exception.Timeout:
            raise CannotResolve(f"no name server answered within {_LIFETIME_S:g} s") from None
        except (dns.exception.DNSException, OSError) as error:
            raise CannotResolve(f"{type(error).__name__}") from None
        ttl_s = min((answer.chaining_result.minimum_ttl for answer in answers.values()), default=0)
        return Found(_ordered(answers.addresses()), float(ttl_s))


class _Name:
    """One name that is watched."""

    def __init__(self, host: str, lookup: Lookup, random: Callable[[], float]) -> None:
        self.host = host
        self.listeners: list[OnResult] = []
        #: The last good answer.
        self.found: tuple[str, ...] = ()
        self._lookup = lookup
        self._random = random
        self._task: asyncio.Task[None] | None = None
        #: Set: do not wait for the records to expire.
        self.again = asyncio.Event()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"resolve {self.host}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                found = await self._lookup(self.host)
                failures, delay_s = 0, min(max(found.ttl_s, _MIN_TTL_S), _MAX_TTL_S)
                if set(found.addresses) != set(self.found):
                    self.found = found.addresses
                    self._tell(self.found, "")
            except CannotResolve as error:
                self._tell((), str(error))
                failures += 1
                delay_s = backoff_s(failures, self._random())
            except Exception:
                log.exception("cannot resolve %s", self.host)
                self._tell((), "the query failed (a bug; see the worker's log)")
                failures += 1
                delay_s = backoff_s(failures, self._random())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self.again.wait()
            self.again.clear()

    def _tell(self, addresses: Sequence[str], reason: str) -> None:
        for listener in tuple(self.listeners):
            listener(addresses, reason)


@dataclass(frozen=True, slots=True)
class _Watch:
    resolver: Resolver
    name: _Name
    on_result: OnResult

    def close(self) -> None:
        """Stop."""
        self.resolver.forget(self.name, self.on_result)


def backoff_s(failures: int, random: float) -> float:
    """Return the pause after so many failures in a row: doubled each time, bounded, half of it random."""
    return float(min(2.0 ** min(failures - 1, 10), _MAX_BACKOFF_S) * (0.5 + random / 2))


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name in a hosts file. Lines that are none are skipped, as by the C library."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ipaddress.ip_address(words[0]))
        except ValueError:
            continue
        for name in words[1:]:
            found.setdefault(name.lower().rstrip("."), []).append(address)
    return {name: _ordered(addresses) for name, addresses in found.items()}


def _ordered(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return distinct addresses, IPv6 first (RFC 6724), in a stable order, as many as anybody would try."""
    distinct = dict.fromkeys(str(address) for address in addresses)
    return tuple(sorted(distinct, key=lambda address: (":" not in address, address)))[:_MAX_ADDRESSES]


def _resolver(resolv_conf: str) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    try:
        resolver.read_resolv_conf(io.StringIO(resolv_conf))
    except dns.resolver.NoResolverConfiguration:
        pass
    if not resolver.nameservers:
        resolver.nameservers = ["127.0.0.1"]  # as the C library does (resolv.conf(5))
    return resolver
