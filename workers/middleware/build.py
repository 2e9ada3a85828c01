"""Which middleware is around the handler of a route: the one place that maps sections of the configuration to it.

The order in a list is from the outside to the inside. Short because there is one middleware so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from velocity_edge.config.content import FixedAnswer, Proxy, ProxyAction, Site
from velocity_edge.config.routes import Action
from velocity_edge.config.server import Server
from workers.middleware.headers import SECURITY, AddHeaders, Date
from workers.pipeline import Middleware


def middleware_of(action: Action, server: Server, date: Date) -> Sequence[Middleware]:
    """Return the middleware around the handler of *action*."""
    match action:
        case Site():
            security = SECURITY if action.security_headers else ()
            return [AddHeaders((*_own(server), *security), date)]
        case FixedAnswer() | Proxy() | ProxyAction():
            return around_errors(server, date)
        case _ as unknown:
            assert_never(unknown)


def around_errors(server: Server, date: Date) -> Sequence[Middleware]:
    """Return the middleware around responses that belong to no action: no such host, path or method."""
    return [AddHeaders(_own(server), date)]


def _own(server: Server) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"server", server.server_header.encode()),) if server.server_header else ()
