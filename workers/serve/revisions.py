"""From a configuration to what a worker uses of it: the router with its handlers, the TLS policy, the limits.

Built whole while the old revision serves, and only then put in its place: what is wrong is found here, and nothing has
changed. `prepare` raises `VelocityError` with a sentence for the operator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from velocity_edge.config.content import FixedAnswer, RouteSection, Site
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError, VelocityError
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import EpochTable
from velocity_edge.tls import kem_oqs
from velocity_edge.tls.certs import Chain, chain_from_pem
from velocity_edge.tls.policy import ServerPolicy, server_policy
from velocity_edge.tls.schedule import fastest_suites
from velocity_edge.tls.tickets import Tickets
from velocity_edge.wire.messages import KeyedChain
from workers.handlers.answers import Answer, Answers
from workers.handlers.static.beneath import Descriptor, probe
from workers.handlers.static.listing import Listings
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.site import StaticHandler, StaticSettings
from workers.http import fold
from workers.middleware.headers import SECURITY, Date, add_headers
from workers.serve.access_log import formatter
from workers.serve.exchanges import Revision
from workers.serve.router import Route, Router


@dataclass(frozen=True, slots=True)
class Prepared:
    """A revision that could be used."""

    number: int
    config: Config
    requests: Revision
    chains: tuple[Chain, ...] = field(repr=False)

    def policy(self, table: EpochTable) -> ServerPolicy:
        """Return the TLS policy with the ticket keys of *table*."""
        server = self.config.server
        return server_policy(
            self.chains,
            default_profile=server.profiles.default,
            permit=server.profiles.permit,
            tickets=Tickets(KeyRing(table, TICKET), int(self.config.tickets.max_age_s)),
            limits=server.limits.limits(),
            groups=kem_oqs.find().groups,
            suites=fastest_suites(),
        )


def prepare(
    number: int,
    config: Config,
    chains: Sequence[KeyedChain],
    roots: Mapping[str, Descriptor],
    clock: Callable[[], float],
    open_files: OpenFiles | None = None,
) -> Prepared:
    """Return the revision. *roots*: path of a site's root -> its directory. *clock* is wall time in seconds.

    *open_files* bounds the descriptors of all revisions of a worker. Raises `VelocityError`.
    """
    if not chains:
        raise ConfigError("cannot serve without a certificate: server.tls.certificate or self_signed would be right")
    certificates = tuple(chain_from_pem(keyed, kem_oqs.find().make_signer) for keyed in chains)
    server = config.server
    date = Date(clock)
    listings = Listings(clock)
    open_files = open_files or OpenFiles()
    own = ((b"server", server.server_header.encode()),) if server.server_header else ()
    routes: list[Route] = []
    for index, site in enumerate(config.content.sites):
        try:
            handler = _static(site, roots, clock, listings, open_files)
        except VelocityError as error:
            # Of several sites one is the reason: `config show --origin` has its line.
            raise type(error)(f"content.sites[{index}] ({site.hostname}): {error}") from None
        around = [add_headers((*own, *(SECURITY if site.security_headers else ())), date)]
        routes += [Route(host, "/", fold(around, handler)) for host in (site.hostname, *site.aliases)]
    hosts = [route.host for route in routes] or ["*"]
    for prefix, answers in _answers(config.content.routes, server.limits.max_request_body_bytes):
        answering = fold([add_headers(own, date)], answers)
        routes += [Route(host, prefix, answering) for host in hosts]
    try:
        router = Router(routes, [add_headers(own, date)])
    except ValueError as error:
        raise ConfigError(f"content: cannot use it: {error}") from None
    telemetry = config.telemetry or server.telemetry
    return Prepared(number, config, Revision(number, router, formatter(telemetry.access_log)), certificates)


def _answers(sections: Sequence[RouteSection], max_body_bytes: int) -> Iterator[tuple[str, Answers]]:
    """Yield each prefix with its answers by method."""
    by_prefix: dict[str, dict[bytes, Answer]] = {}
    for section in sections:
        action = section.action
        if not isinstance(action, FixedAnswer):
            raise ConfigError("content.routes: cannot proxy yet")
        headers = tuple((name.lower().encode(), value.encode()) for name, value in action.headers.items())
        answer = Answer.of(action.status, headers, action.body.encode())
        methods = by_prefix.setdefault(section.match.path.rstrip("/") or "/", {})
        methods.update({method.encode(): answer for method in section.match.methods or ("",)})
    for prefix, methods in by_prefix.items():
        yield prefix, Answers(methods, max_body_bytes)


def _static(
    site: Site,
    roots: Mapping[str, Descriptor],
    clock: Callable[[], float],
    listings: Listings,
    open_files: OpenFiles,
) -> StaticHandler:
    name = os.fspath(site.root)
    root = roots.get(name)
    if root is None:
        raise ConfigError(f"cannot serve {name}: its directory did not come with the configuration")
    probe(root.fd, name)
    handler = StaticHandler(
        root,
        StaticSettings(
            index=tuple(site.index),
            cache_control=site.cache_control,
            listings=site.listings,
            spa_fallback=site.spa_fallback,
            precompressed=site.precompressed,
            hidden_files=site.hidden_files,
            error_pages=site.error_pages,
        ),
        clock,
        listings,
        open_files,
    )
    absent = handler.missing()
    if absent:
        raise ConfigError(f"cannot use {name}/{absent[0]}")
    return handler
