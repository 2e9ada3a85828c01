"""From an action of the configuration to its handler: the one place that maps them.

Handlers that keep something between revisions lease it (resources.py). A mistake that only this machine can show, such
as a directory that cannot be read, is found here, before a revision is activated.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import assert_never

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
from velocity_edge.config.routes import Route
from velocity_edge.config.server import Server
from velocity_edge.errors import ConfigError
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.keys.sealer import Sealer
from velocity_edge.wire.rate_cells import RateCells
from workers.handlers.filled import filled_handler
from workers.handlers.fixed import FixedHandler, encoded
from workers.handlers.one_file import FileHandler, site_of
from workers.handlers.proxied import proxy_of
from workers.handlers.redirect import RedirectHandler
from workers.handlers.resources import Lease, Resources
from workers.handlers.static.beneath import Descriptor, probe
from workers.handlers.static.listing import Listings
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.site import StaticHandler, missing
from workers.handlers.templates import TemplateHandler
from workers.measures import Measures
from workers.pipeline import Handler
from workers.plugins import INSTALLED
from workers.proxy.client import Client
from workers.proxy.context import ProxyContext
from workers.proxy.dns import Resolver
from workers.proxy.overview import Overview


class HandlerContext:
    """What all handlers of a worker share, in every revision."""

    def __init__(self, clock: Callable[[], float], open_files: OpenFiles | None = None) -> None:
        """*clock* is wall time in seconds; *open_files* bounds the descriptors of all sites."""
        self.clock = clock
        self.open_files = open_files or OpenFiles()
        self.listings = Listings(clock)
        self.resources = Resources()
        self.plugins = INSTALLED
        self.measures = Measures()
        self.proxies = ProxyContext(
            time.monotonic,
            random.random,
            _new_id,
            self.measures,
            Client,
            Resolver(random.random),
            Overview(self.measures),
        )
        #: Of this worker alone until its slot's are here (workers/process/worker.py).
        self.rate_cells = RateCells.private()
        #: Follows the keys of the node (workers/process/worker.py).
        self.sealer = Sealer()


def handler_of(
    route: Route,
    content: Content,
    context: HandlerContext,
    lease: Lease,
    *,
    roots: Mapping[str, Descriptor],
    server: Server,
    reads_body: bool,
) -> Handler:
    """Return the handler for the action of *route*, which is one of *content*. Raises `VelocityError`.

    *roots*: what the supervisor opened (config/needs.py). *reads_body*: a middleware around the handler does
    (pipeline.py).
    """
    max_body_bytes = server.limits.max_request_body_bytes
    match route.action:
        case Site() as site:
            return _static(site, context, lease, roots)
        case FixedAnswer() as action:
            return FixedHandler(action.status, encoded(action.headers), action.body.encode(), max_body_bytes)
        case TextAnswer() | JsonAnswer() as action:
            return filled_handler(action, route.pattern, max_body_bytes)
        case TemplateAnswer() as action:
            if content.templates_dir is None:
                raise ConfigError("cannot use a template without templates_dir")
            return TemplateHandler(action, content.templates_dir, roots, max_body_bytes)
        case FileAnswer() as action:
            files = _static(site_of(action), context, lease, roots, needed=action.path.name)
            return FileHandler(action, files, encoded(action.headers))
        case RedirectAnswer() as action:
            return RedirectHandler(action, route.pattern)
        case PluginAction() as action:
            return context.plugins.handler(action.name, action.options)
        case Proxy() | ProxyAction() as action:
            return proxy_of(
                action,
                context.proxies,
                lease,
                roots,
                max_body_bytes=max_body_bytes,
                trusted=TrustedProxies(server.trusted_proxies),
                reads_body=reads_body,
            )
        case _ as unknown:
            assert_never(unknown)


def _static(
    site: Site, context: HandlerContext, lease: Lease, roots: Mapping[str, Descriptor], *, needed: str = ""
) -> StaticHandler:
    name = os.fspath(site.root)
    root = roots.get(name)
    if root is None:
        raise ConfigError(f"cannot serve {name}: its directory did not come with the configuration")
    probe(root.fd, name)
    if absent := missing(root, site, context.clock, needed):
        raise ConfigError(f"cannot use {name}/{absent[0]}")

    def open_() -> StaticHandler:
        return StaticHandler(root, site, context.clock, context.listings, context.open_files)

    # Who asks for the site and what is around it does not matter to the handler.
    settings = site.model_dump_json(exclude={"hostname", "aliases", "security_headers"})
    handler = lease.take(StaticHandler, settings, open_)
    # Another directory may be at this path since the revision before.
    lease.when_active(lambda: handler.use_root(root))
    return handler


def _new_id() -> bytes:
    return os.urandom(16).hex().encode()
