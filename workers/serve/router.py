"""What answers a request: host first, then the longest path prefix, then the method. Built once per revision; pure.

A host is exact (`example.com`), a wildcard (`*.example.com`: one label, as in certificates, RFC 9525 section 6.3) or
the default (`*`). Exact takes precedence over wildcard over default. For a host without routes the answer should be
421, so that a browser that coalesced connections tries again on its own (RFC 9110 section 15.5.20). A prefix matches
whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.

The router does not know what it finds: a worker builds it over pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """Requests for `host` whose path is below `prefix`."""

    host: str
    prefix: str
    #: For methods that `by_method` does not have.
    other: T
    by_method: Mapping[bytes, T] = field(default_factory=dict)


_Table = list[tuple[bytes, Mapping[bytes, T], T]]


class Router(Generic[T]):
    """The routes of one revision."""

    def __init__(self, routes: Sequence[Route[T]], no_such_host: T, no_such_path: T) -> None:
        """*no_such_host*, *no_such_path*: what is found when no route matches.

        Raises ValueError on two routes with the same host and prefix and on hosts that are not ASCII.
        """
        self._exact: dict[bytes, _Table[T]] = {}
        self._wildcard: dict[bytes, _Table[T]] = {}
        self._default: _Table[T] = []
        self._no_such_host = no_such_host
        self._no_such_path = no_such_path
        for route in routes:
            host, prefix = route.host.lower().encode("ascii"), route.prefix
            if b":" in host:
                host = b"[%b]" % host  # an IPv6 address, as in an authority
            if not prefix.startswith("/"):
                raise ValueError(f"route prefix {prefix!r} does not begin with a slash")
            if host == b"*":
                table = self._default
            elif host.startswith(b"*."):
                table = self._wildcard.setdefault(host[1:], [])
            else:
                table = self._exact.setdefault(host, [])
            path = prefix.rstrip("/").encode()
            if any(path == taken for taken, _, _ in table):
                raise ValueError(f"two routes for {route.host}{prefix}")
            table.append((path, route.by_method, route.other))
        for table in (*self._exact.values(), *self._wildcard.values(), self._default):
            table.sort(key=lambda entry: -len(entry[0]))

    def find(self, host: bytes, path: bytes, method: bytes) -> T:
        """Return what answers *method* for *host* (as `host_of` returns it) and *path* (raw, without query)."""
        table = self._table(host)
        if table is None:
            return self._no_such_host
        for prefix, by_method, other in table:
            if not prefix or path == prefix or path.startswith(prefix + b"/"):
                return by_method.get(method, other)
        return self._no_such_path

    def _table(self, host: bytes) -> _Table[T] | None:
        table = self._exact.get(host)
        if table is None:
            dot = host.find(b".")
            if dot > 0:
                table = self._wildcard.get(host[dot:])
        return table or self._default or None
