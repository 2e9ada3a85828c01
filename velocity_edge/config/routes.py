"""`content.sites`, `content.proxies` and `content.routes` as one list of routes, and which of them collide.

The worker builds its router from this list (workers/serve/revisions.py); so that the configuration is checked against
the same list, what is accepted here can be served there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from velocity_edge.config.content import Content, FixedAnswer, Proxy, ProxyAction, Site
from velocity_edge.config.section import KeyPath, Problem, dotted_path

#: What is done with a request. Consumers `match` it and end with `assert_never`.
Action = Site | FixedAnswer | Proxy | ProxyAction

#: The host of routes when neither a site nor a proxy names one.
ANY_HOST: Final = "*"


@dataclass(frozen=True, slots=True)
class Route:
    """Requests to `host` whose path is below `prefix`, with one of `methods` (none: any), are for `action`."""

    host: str
    #: Without a slash at its end; "/" for every path.
    prefix: str
    methods: Sequence[str]
    action: Action
    #: The section of the configuration that it is from, such as ("content", "sites", "0").
    where: KeyPath


def routes_of(content: Content) -> list[Route]:
    """Return all routes: of sites and proxies, then of `routes` on each of their hosts."""
    named: list[Route] = []
    for i, site in enumerate(content.sites):
        where = ("content", "sites", str(i))
        named += [Route(host, "/", (), site, where) for host in (site.hostname, *site.aliases)]
    for i, proxy in enumerate(content.proxies):
        named.append(Route(proxy.hostname, _prefix(proxy.path), (), proxy, ("content", "proxies", str(i))))
    hosts = dict.fromkeys(route.host for route in named) or (ANY_HOST,)
    matched = [
        Route(host, _prefix(section.match.path), section.match.methods, section.action, ("content", "routes", str(i)))
        for i, section in enumerate(content.routes)
        for host in hosts
    ]
    return [*named, *matched]


def collisions(routes: Sequence[Route]) -> Iterator[Problem]:
    """Yield each route that answers a request which an earlier one answers already.

    A route for every method excludes others for the same path: which one is meant would depend on the order.
    """
    taken: dict[tuple[str, str], dict[str, Route]] = {}
    for route in routes:
        methods = taken.setdefault((route.host, route.prefix), {})
        for method in route.methods or ("",):
            other = (
                methods.get(method) or methods.get("") or (next(iter(methods.values()), None) if not method else None)
            )
            if other is not None:
                yield _collision(route, method, other)
            methods.setdefault(method, route)


def _collision(route: Route, method: str, other: Route) -> Problem:
    place = dotted_path(other.where)
    match route.action:
        case Site():
            key = "hostname" if route.host == route.action.hostname else "aliases"
            return (*route.where, key), f"cannot serve {route.host!r} twice: {place} has it"
        case Proxy():
            return (*route.where, "hostname"), f"cannot serve {route.host!r} twice: {place} has it"
        case FixedAnswer() | ProxyAction():
            if isinstance(other.action, Site):
                return (*route.where, "match", "path"), f"cannot be '/' beside {place}: it would hide all of its files"
            return (
                *route.where,
                "match",
            ), f"cannot answer {method or 'every method'} {route.prefix} twice: {place} has it"


def _prefix(path: str) -> str:
    return path.rstrip("/") or "/"
