"""`content.sites`, `content.proxies` and `content.routes` as one list of routes, and which of them collide.

The worker builds its router from this list (workers/serve/revisions.py); so that the configuration is checked against
the same list, what is accepted here can be served there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from velocity_edge.config import actions
from velocity_edge.config.content import Around, Content, Proxy, Site
from velocity_edge.config.match import HeaderMatch
from velocity_edge.config.middlewares import Middleware
from velocity_edge.config.middlewares.rate_limit import RateLimitRule
from velocity_edge.config.middlewares.waf import WafRules
from velocity_edge.config.patterns import Pattern, parse_pattern
from velocity_edge.config.section import KeyPath, Problem, dotted_path

#: What is done with a request. Consumers `match` it and end with `assert_never`.
Action = Site | Proxy | actions.Action

#: The host of routes when neither a site nor a proxy names one.
ANY_HOST: Final = "*"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around an action, resolved: its own keys, else those of the whole content."""

    #: From the outside to the inside.
    middlewares: tuple[Middleware, ...] = ()
    rate_limit: RateLimitRule | None = None
    #: The limit is the action's own: it counts apart from `content.rate_limit`.
    own_rate_limit: bool = False
    waf: WafRules | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Requests to `host` whose path matches `pattern`, with one of `methods` (none: any), are for `action`."""

    host: str
    pattern: Pattern
    methods: Sequence[str]
    action: Action
    #: The section of the configuration that it is from, such as ("content", "sites", "0").
    where: KeyPath
    around: Surroundings
    #: Conditions on fields: names in lower case.
    headers: tuple[tuple[str, HeaderMatch], ...] = ()


#: Sites have every path of their host.
_EVERYTHING: Final = parse_pattern("/")


def routes_of(content: Content) -> list[Route]:
    """Return all routes: of sites and proxies, then of `routes` on each of their hosts."""
    named: list[Route] = []
    for i, site in enumerate(content.sites):
        where, around = ("content", "sites", str(i)), surroundings(content, site)
        named += [Route(host, _EVERYTHING, (), site, where, around) for host in (site.hostname, *site.aliases)]
    for i, proxy in enumerate(content.proxies):
        where, around = ("content", "proxies", str(i)), surroundings(content, proxy)
        named.append(Route(proxy.hostname, parse_pattern(proxy.path), (), proxy, where, around))
    hosts = _hosts([route.host for route in named], content)
    matched: list[Route] = []
    for i, section in enumerate(content.routes):
        where, around, match = ("content", "routes", str(i)), surroundings(content, section), section.match
        headers = tuple((name.lower(), match.headers[name]) for name in sorted(match.headers, key=str.lower))
        matched += [
            Route(host, match.pattern, match.methods, section.action, where, around, headers)
            for host in match.host or hosts
        ]
    return [*named, *matched]


def _hosts(named: Sequence[str], content: Content) -> list[str]:
    """Return the hosts of routes that name none: all that anything names, and every other one without a site or proxy.

    A host that only a route names has the others' paths, too: the exact host alone decides where a request is looked
    up (workers/serve/router.py).
    """
    of_routes = [host for section in content.routes for host in section.match.host]
    return list(dict.fromkeys((*named, *of_routes, *(() if named else (ANY_HOST,)))))


def surroundings(content: Content, own: Around) -> Surroundings:
    """Return what is around an action that has the keys *own*. Every name in its list is defined (content.py)."""
    defined = {middleware.name: middleware for middleware in content.middlewares}
    if own.middlewares is None:
        middlewares = sorted((one for one in content.middlewares if one.everywhere), key=lambda one: one.place())
    else:
        middlewares = [defined[name] for name in own.middlewares if name in defined]
    own_limit = own.rate_limit is not None
    limit = own.rate_limit or content.rate_limit
    return Surroundings(tuple(middlewares), limit, own_limit, own.waf or content.waf)


def collisions(routes: Sequence[Route]) -> Iterator[Problem]:
    """Yield each route that answers a request which an earlier one answers already.

    A route for every method excludes others for the same path: which one is meant would depend on the order.
    """
    taken: dict[Hashable, dict[str, Route]] = {}
    for route in routes:
        conditions = tuple((name, condition.model_dump_json()) for name, condition in route.headers)
        methods = taken.setdefault((route.host, route.pattern.shape, conditions), {})
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
        case _:
            if isinstance(other.action, Site):
                return (*route.where, "match", "path"), f"cannot be '/' beside {place}: it would hide all of its files"
            return (
                *route.where,
                "match",
            ), f"cannot answer {method or 'every method'} {route.pattern.text} twice: {place} has it"
