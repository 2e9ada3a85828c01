"""Which middleware is around the handler of a route: the one place that maps sections of the configuration to it.

The order in a list is from the outside to the inside. A definition of `content.middlewares` becomes one object for all
routes of a revision that name it, so that what it remembers or counts is shared by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from velocity_edge.config.content import FixedAnswer, Proxy, ProxyAction, Site
from velocity_edge.config.middlewares import Middleware as Section
from velocity_edge.config.middlewares.headers import Headers
from velocity_edge.config.middlewares.plugin import Plugin
from velocity_edge.config.routes import Route
from velocity_edge.config.server import Server
from velocity_edge.errors import ConfigError
from workers.files import Roots
from workers.handlers.build import HandlerContext
from workers.handlers.resources import Lease
from workers.middleware.edit_headers import EditHeaders
from workers.middleware.headers import SECURITY, AddHeaders, Date
from workers.pipeline import Middleware


@dataclass(frozen=True, slots=True)
class Parts:
    """What the middleware of one revision is made from."""

    server: Server
    date: Date
    #: The files that sections need (config/needs.py), for `read_file`.
    roots: Roots
    context: HandlerContext
    lease: Lease
    #: Name of a definition -> what was made of it.
    made: dict[str, Middleware] = field(default_factory=dict)


def middleware_of(route: Route, parts: Parts) -> Sequence[Middleware]:
    """Return the middleware around the handler of *route*. Raises `VelocityError`."""
    named = []
    for section in route.around.middlewares:
        if section.name not in parts.made:
            parts.made[section.name] = _one(section, parts)
        named.append(parts.made[section.name])
    return [*_always(route, parts.server, parts.date), *named]


def _always(route: Route, server: Server, date: Date) -> Sequence[Middleware]:
    """Return what is around every action, also without `middlewares`."""
    match route.action:
        case Site() as site:
            security = SECURITY if site.security_headers else ()
            return [AddHeaders((*_own(server), *security), date)]
        case FixedAnswer() | Proxy() | ProxyAction():
            return around_errors(server, date)
        case _ as unknown:
            assert_never(unknown)


def _one(section: Section, parts: Parts) -> Middleware:
    """Return what an entry of `content.middlewares` defines."""
    match section:
        case Headers():
            return EditHeaders(section)
        case Plugin():
            raise ConfigError("cannot load packages yet")
        case _ as unknown:
            assert_never(unknown)


def around_errors(server: Server, date: Date) -> Sequence[Middleware]:
    """Return the middleware around responses that belong to no action: no such host, path or method."""
    return [AddHeaders(_own(server), date)]


def _own(server: Server) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"server", server.server_header.encode()),) if server.server_header else ()
