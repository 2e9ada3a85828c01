"""From a configuration to what a worker uses of it: the router with its pipelines, the TLS policy, the limits.

A revision is built completely while the one before it serves, and only then activated: an error is found here, and
nothing has changed. `prepare` raises `VelocityError` with a sentence for the operator. What a revision has opened is
released by `Prepared.close`, or when it was replaced and its last request has ended (revision.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from velocity_edge.config.model import Config
from velocity_edge.config.patterns import parse_pattern
from velocity_edge.config.routes import routes_of
from velocity_edge.config.section import KeyPath, dotted_path
from velocity_edge.config.telemetry import Telemetry
from velocity_edge.errors import ConfigError, VelocityError
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic.open_engine import fastest_suites
from velocity_edge.tls import kem_oqs
from velocity_edge.tls.certs import Chain, chain_from_pem
from velocity_edge.tls.policy import ServerPolicy, server_policy
from velocity_edge.tls.tickets import Tickets
from velocity_edge.wire.messages import KeyedChain
from workers.handlers.build import HandlerContext, handler_of
from workers.handlers.fixed import method_not_allowed
from workers.handlers.resources import Lease
from workers.handlers.static.beneath import Descriptor
from workers.http import Request, Response, plain
from workers.middleware.auth.build import fetcher
from workers.middleware.build import Parts, around_errors, middleware_of
from workers.middleware.error_pages import with_error_pages
from workers.middleware.headers import Date
from workers.pipeline import Middleware, Pipeline, fold, own_paths
from workers.serve.access_log import rule_of
from workers.serve.conditions import condition
from workers.serve.path_routes import Answers, Route
from workers.serve.revision import Revision, Tracing
from workers.serve.router import Router
from workers.serve.trace_context import TraceRule


@dataclass(frozen=True, slots=True)
class Prepared:
    """A revision that can be activated."""

    number: int
    config: Config
    requests: Revision
    chains: tuple[Chain, ...] = field(repr=False)
    lease: Lease = field(repr=False)

    def policy(self, table: EpochTable) -> ServerPolicy:
        """Return the TLS policy with the ticket keys of *table*."""
        server = self.config.server
        return server_policy(
            self.chains,
            default_profile=server.profiles.default,
            permit=server.profiles.permit,
            tickets=Tickets(KeyRing(table, TICKET), int(self.config.tickets.max_age_s)),
            max_message_bytes=server.limits.limits().max_crypto_bytes,
            groups=kem_oqs.find().groups,
            suites=fastest_suites(),
        )

    def close(self) -> None:
        """Release what was opened for a revision that will not be activated, or whose worker stops."""
        self.lease.close()


def prepare(
    number: int, config: Config, chains: Sequence[KeyedChain], roots: Mapping[str, Descriptor], context: HandlerContext
) -> Prepared:
    """Return the revision. *roots*: path -> what the supervisor opened there (config/needs.py).

    Raises `VelocityError`.
    """
    if not chains:
        raise ConfigError("cannot serve without a certificate: expected server.tls.certificate or self_signed")
    certificates = tuple(chain_from_pem(keyed, kem_oqs.find().make_signer) for keyed in chains)
    telemetry = config.telemetry or config.server.telemetry
    lease = context.resources.lease()
    try:
        router = _router(config, roots, context, lease)
        tracing = _tracing(telemetry, roots, context, lease)
    except BaseException:
        lease.close()
        raise
    access = rule_of(telemetry.access_log)
    trusted = TrustedProxies(config.server.trusted_proxies)
    requests = Revision(number, router.find, access, telemetry.trust_request_id, trusted, tracing, lease.close)
    return Prepared(number, config, requests, certificates, lease)


def _tracing(
    telemetry: Telemetry, roots: Mapping[str, Descriptor], context: HandlerContext, lease: Lease
) -> Tracing | None:
    otlp = telemetry.otlp
    if otlp is None:
        return None
    fetch = fetcher(otlp.timeout_s, None, roots, context, lease)

    async def send(body: bytes) -> int:
        headers = ((b"content-type", b"application/json"),)
        return (await fetch(otlp.url, method="POST", headers=headers, body=body)).status

    return Tracing(TraceRule(otlp.sample, otlp.trust_clients), send)


def _router(config: Config, roots: Mapping[str, Descriptor], context: HandlerContext, lease: Lease) -> Router[Pipeline]:
    server, date = config.server, Date(context.clock)
    asserted = frozenset(name for section in config.content.middlewares for name in section.asserts())
    parts = Parts(server, date, roots, context, lease, asserted)
    pipelines: dict[KeyPath, Pipeline] = {}
    arounds: dict[KeyPath, Sequence[Middleware]] = {}
    owned: dict[tuple[str, str], tuple[Middleware, Pipeline]] = {}
    configured = routes_of(config.content)
    # What depends on a field of the request must not be sent to another one: none of these hosts shares responses.
    by_headers = {route.host for route in configured if route.headers}
    routes: list[Route[Pipeline]] = []
    for route in configured:
        pipeline = pipelines.get(route.where)
        if pipeline is None:
            try:
                around = middleware_of(route, parts)
                reads_body = any(middleware.reads_body for middleware in around)
                handler = handler_of(
                    route, config.content, context, lease, roots=roots, server=server, reads_body=reads_body
                )
            except VelocityError as error:
                # Which of several: `config show --origin` has its line.
                raise type(error)(f"{dotted_path(route.where)} ({route.host}): {error}") from None
            folded = fold(with_error_pages(around, handler), handler)
            pipeline = pipelines[route.where] = replace(folded, site=route.host)
            arounds[route.where] = around
        for path, middleware, own in own_paths(arounds[route.where]):
            place = route.host, path.decode("ascii")
            if owned.setdefault(place, (middleware, replace(own, site=route.host)))[0] is not middleware:
                raise ConfigError(f"{dotted_path(route.where)}: two middlewares answer {place[1]} on {place[0]}")
        routes.append(
            Route(
                route.host,
                route.pattern,
                replace(pipeline, may_share=False) if route.host in by_headers else pipeline,
                [method.encode() for method in route.methods],
                tuple(condition(name, match) for name, match in route.headers),
                tuple((name, match.model_dump_json()) for name, match in route.headers),
            )
        )
    taken = {(route.host, route.pattern.text) for route in configured}
    for (host, text), (_, own) in owned.items():
        if (host, text) in taken:
            raise ConfigError(f"content: cannot use {text} on {host} for a route: a middleware answers it")
        routes.append(Route(host, parse_pattern(text, exact=True), own))
    errors = around_errors(config.content, server, date, context)
    answers = Answers(
        fold(errors, _no_such_host),
        fold(errors, lambda request: plain(404)),
        fold(errors, lambda request: plain(400)),
        lambda methods: fold(errors, method_not_allowed(methods)),
    )
    try:
        return Router(routes, answers)
    except ValueError as error:
        raise ConfigError(f"content: cannot use it: {error}") from None


def _no_such_host(request: Request) -> Response:
    return plain(421, "This server has no site of that name.")
