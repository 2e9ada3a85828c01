"""Which handler answers a request: host first, then the longest path prefix. Built once per revision; pure.

A host is exact (`example.com`), a wildcard (`*.example.com`: one label, as in certificates, RFC 9525 section 6.3) or
the default (`*`). Exact wins over wildcard over default; a host that no site has gets 421, so that a browser that
coalesced connections tries again on its own (RFC 9110 section 15.5.20). A prefix matches whole segments: `/api` has
`/api` and `/api/x`, not `/apix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.http import Handler, Middleware, Request, Response, fold, plain


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for `host` whose path lies under `prefix` go to `handler`."""

    host: str
    prefix: str
    handler: Handler


class Router:
    """The routes of one revision."""

    def __init__(self, routes: Sequence[Route], middlewares: Sequence[Middleware] = ()) -> None:
        """*middlewares* are around the router's own answers (421, 404); handlers of routes bring their own.

        Raises ValueError on two routes for the same thing and on hosts not in ASCII.
        """
        self._exact: dict[bytes, list[tuple[bytes, Handler]]] = {}
        self._wildcard: dict[bytes, list[tuple[bytes, Handler]]] = {}
        self._default: list[tuple[bytes, Handler]] = []
        self._no_such_site = fold(middlewares, _no_such_site)
        self._no_such_path = fold(middlewares, _no_such_path)
        for route in routes:
            host, prefix = route.host.lower().encode("ascii"), route.prefix
            if b":" in host:
                host = b"[%b]" % host  # an IPv6 address, as it stands in an authority
            if not prefix.startswith("/"):
                raise ValueError(f"route prefix {prefix!r} does not begin with a slash")
            if host == b"*":
                table = self._default
            elif host.startswith(b"*."):
                table = self._wildcard.setdefault(host[1:], [])
            else:
                table = self._exact.setdefault(host, [])
            entry = (prefix.rstrip("/").encode(), route.handler)
            if any(entry[0] == other for other, _ in table):
                raise ValueError(f"two routes for {route.host}{prefix}")
            table.append(entry)
        for table in (*self._exact.values(), *self._wildcard.values(), self._default):
            table.sort(key=lambda entry: -len(entry[0]))

    def find(self, host: bytes, path: bytes) -> Handler | None:
        """Return the handler for *host* (as `host_of` gives it) and *path* (raw, without query), or None."""
        table = self._table(host)
        for prefix, handler in table or ():
            if not prefix or path == prefix or path.startswith(prefix + b"/"):
                return handler
        return None

    def __call__(self, request: Request) -> Handler:
        """Return the handler for *request*; one that says why when there is none."""
        handler = self.find(request.host, request.path)
        if handler is not None:
            return handler
        return self._no_such_path if self._table(request.host) else self._no_such_site

    def _table(self, host: bytes) -> list[tuple[bytes, Handler]] | None:
        table = self._exact.get(host)
        if table is None:
            dot = host.find(b".")
            if dot > 0:
                table = self._wildcard.get(host[dot:])
        return table or self._default or None


def _no_such_site(request: Request) -> Response:
    return plain(421, "This node has no site of that name.")


def _no_such_path(request: Request) -> Response:
    return plain(404)
