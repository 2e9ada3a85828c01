"""Which middleware is around the handler of a route: the one place that maps sections of the configuration to it.

The order in a list is from the outside to the inside. A definition of `content.middlewares` becomes one object for all
routes of a revision that name it, so that what it remembers or counts is shared by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from velocity_edge.config.actions import (
    FileAnswer,
    FixedAnswer,
    JsonAnswer,
    PluginAction,
    ProxyAction,
    RedirectAnswer,
    TemplateAnswer,
    TextAnswer,
)
from velocity_edge.config.content import Content, Proxy, Site
from velocity_edge.config.middlewares import Middleware as Section
from velocity_edge.config.middlewares.base import Layer
from velocity_edge.config.middlewares.basic import Basic
from velocity_edge.config.middlewares.body_limit import BodyLimit
from velocity_edge.config.middlewares.compress import Compress
from velocity_edge.config.middlewares.cors import Cors
from velocity_edge.config.middlewares.forward_auth import ForwardAuth
from velocity_edge.config.middlewares.headers import Headers
from velocity_edge.config.middlewares.ip import IpLists
from velocity_edge.config.middlewares.jwt import Jwt
from velocity_edge.config.middlewares.oidc import Oidc
from velocity_edge.config.middlewares.plugin import Plugin
from velocity_edge.config.middlewares.rate_limit import RateLimit, RateLimitRule
from velocity_edge.config.middlewares.security_headers import SecurityHeaders
from velocity_edge.config.patterns import parse_pattern
from velocity_edge.config.routes import Route, Surroundings
from velocity_edge.config.server import Server
from workers.files import Roots
from workers.handlers.build import HandlerContext
from workers.handlers.resources import Lease
from workers.middleware.auth.build import guard_of
from workers.middleware.auth.strip import StripIdentity
from workers.middleware.body_limit import LimitBody
from workers.middleware.compress import Compression
from workers.middleware.compressors import Kept
from workers.middleware.cors import CrossOrigin
from workers.middleware.edit_headers import EditHeaders
from workers.middleware.headers import SECURITY, AddHeaders, Date, Defaults
from workers.middleware.ip import IpFilter
from workers.middleware.rate_limit import RateLimiter
from workers.middleware.waf import Firewall
from workers.pipeline import Middleware

#: The name of `content.rate_limit` in fields and metrics.
EVERYTHING: Final = "default"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the middleware of one revision is made from."""

    server: Server
    date: Date
    #: The files that sections need (config/needs.py), for `read_file`.
    roots: Roots
    context: HandlerContext
    lease: Lease
    #: Fields in which upstreams learn who a client is, of all definitions.
    asserted: frozenset[str] = frozenset()
    #: Name of a definition -> what was made of it.
    made: dict[str, Middleware] = field(default_factory=dict)


def middleware_of(route: Route, parts: Parts) -> Sequence[Middleware]:
    """Return the middleware around the handler of *route*. Raises `VelocityError`."""
    sections = route.around.middlewares
    named = []
    for section in sections:
        apart = isinstance(section, RateLimit) and section.key == "route"
        name = f"{section.name} {route.host}{route.pattern.text}" if apart else section.name
        if name not in parts.made:
            parts.made[name] = _one(section, route, parts)
        named.append(parts.made[name])
    # Rules for everything come first, except for what is cheaper: fields, and addresses.
    first = sum(1 for _ in itertools.takewhile(lambda section: section.layer <= Layer.NETWORKS, sections))
    always = _always(route, parts.server, parts.date)
    strip = [StripIdentity(sorted(parts.asserted))] if parts.asserted else []
    limits = _limits(route, parts.server, parts.context)
    return [always, *strip, *named[:first], *limits, *named[first:]]


def _always(route: Route, server: Server, date: Date) -> Middleware:
    """Return what is around every action, also without `middlewares`."""
    replaced = any(isinstance(section, SecurityHeaders) for section in route.around.middlewares)
    match route.action:
        case Site() as site:
            security = SECURITY if site.security_headers and not replaced else ()
            return AddHeaders((*_own(server), *security), date)
        case FileAnswer() | TemplateAnswer():
            return AddHeaders((*_own(server), *(() if replaced else SECURITY)), date)
        case FixedAnswer() | TextAnswer() | JsonAnswer() | RedirectAnswer() | Proxy() | ProxyAction() | PluginAction():
            return AddHeaders(_own(server), date)
        case _ as unknown:
            assert_never(unknown)


def _limits(route: Route, server: Server, context: HandlerContext) -> Sequence[Middleware]:
    """Return the rules and the rate limit of the route, its own or those of everything."""
    around = route.around
    rules: list[Middleware] = []
    if around.waf is not None and around.waf.enabled:
        rules.append(Firewall(around.waf, context.measures, server.limits.stream_window_bytes))
    if around.rate_limit is None:
        return rules
    name = f"{route.host}{route.pattern.text}" if around.own_rate_limit else EVERYTHING
    return [*rules, _limiter(name, around.rate_limit, route, context)]


def _limiter(name: str, rule: RateLimitRule, route: Route, context: HandlerContext) -> Middleware:
    return RateLimiter(name, rule, f"{route.host}{route.pattern.text}", context.rate_cells, context.measures)


def _one(section: Section, route: Route, parts: Parts) -> Middleware:
    """Return what an entry of `content.middlewares` defines."""
    match section:
        case Basic() | ForwardAuth() | Jwt() | Oidc():
            return guard_of(section, parts.context, parts.lease, parts.roots)
        case BodyLimit():
            return LimitBody(section.max_body_bytes)
        case Compress():
            return Compression(section, parts.lease.take(Kept, "", Kept), parts.context.measures)
        case Cors():
            return CrossOrigin(section)
        case Headers():
            return EditHeaders(section)
        case IpLists():
            return IpFilter(section)
        case RateLimit():
            return _limiter(section.name, section, route, parts.context)
        case SecurityHeaders():
            return Defaults(section.fields())
        case Plugin():
            return parts.context.plugins.middleware(section.plugin, section.options)
        case _ as unknown:
            assert_never(unknown)


def around_errors(content: Content, server: Server, date: Date, context: HandlerContext) -> Sequence[Middleware]:
    """Return the middleware around responses that belong to no action: no such host, path or method."""
    nowhere = Route(
        "",
        parse_pattern("/"),
        (),
        FixedAnswer(type="static"),
        (),
        Surroundings(rate_limit=content.rate_limit, waf=content.waf),
    )
    return [_always(nowhere, server, date), *_limits(nowhere, server, context)]


def _own(server: Server) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"server", server.server_header.encode()),) if server.server_header else ()
