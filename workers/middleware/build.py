"""Which middleware is around the handler of a route: the one place that maps sections of the configuration to it.

The order in a list is from the outside to the inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from velocity_edge.config.content import FixedAnswer, Proxy, ProxyAction, Site
from velocity_edge.config.middlewares import Middleware as Section
from velocity_edge.config.middlewares.headers import Headers
from velocity_edge.config.middlewares.plugin import Plugin
from velocity_edge.config.routes import Route
from velocity_edge.config.server import Server
from velocity_edge.errors import ConfigError
from workers.files import Roots
from workers.middleware.edit_headers import EditHeaders
from workers.middleware.headers import SECURITY, AddHeaders, Date
from workers.pipeline import Middleware


def middleware_of(route: Route, server: Server, date: Date, roots: Roots) -> Sequence[Middleware]:
    """Return the middleware around the handler of *route*. Raises `VelocityError`.

    *roots*: the files that sections need (config/needs.py), for `read_file`.
    """
    return [*_always(route, server, date), *(_one(section, roots) for section in route.around.middlewares)]


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


def _one(section: Section, roots: Roots) -> Middleware:
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
