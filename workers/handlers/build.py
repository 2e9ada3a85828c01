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

from velocity_edge.config.actions import FixedAnswer, ProxyAction
from velocity_edge.config.content import Proxy, Site
from velocity_edge.config.routes import Action
from velocity_edge.config.server import Server
from velocity_edge.errors import ConfigError
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.keys.sealer import Sealer
from velocity_edge.wire.rate_cells import RateCells
from workers.handlers.fixed import FixedHandler, encoded
from workers.handlers.proxied import proxy_of
from workers.handlers.resources import Lease, Resources
from workers.handlers.static.beneath import Descriptor, probe
from workers.handlers.static.listing import Listings
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.site import StaticHandler, missing
from workers.measures import Measures
from workers.pipeline import Handler
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
    action: Action,
    context: HandlerContext,
    lease: Lease,
    *,
    roots: Mapping[str, Descriptor],
    server: Server,
    reads_body: bool,
) -> Handler:
    """Return the handler for *action*. Raises `VelocityError`.

    *roots*: path of a site's root -> its directory, as it came with the configuration. *reads_body*: a middleware
    around the handler does (pipeline.py).
    """
    match action:
        case Site():
            return _static(action, context, lease, roots)
        case FixedAnswer():
            max_body_bytes = server.limits.max_request_body_bytes
            return FixedHandler(action.status, encoded(action.headers), action.body.encode(), max_body_bytes)
        case Proxy() | ProxyAction():
            return proxy_of(
                action,
                context.proxies,
                lease,
                roots,
                max_body_bytes=server.limits.max_request_body_bytes,
                trusted=TrustedProxies(server.trusted_proxies),
                reads_body=reads_body,
            )
        case _ as unknown:
            assert_never(unknown)


def _static(site: Site, context: HandlerContext, lease: Lease, roots: Mapping[str, Descriptor]) -> StaticHandler:
    name = os.fspath(site.root)
    root = roots.get(name)
    if root is None:
        raise ConfigError(f"cannot serve {name}: its directory did not come with the configuration")
    probe(root.fd, name)
    if absent := missing(root, site, context.clock):
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
