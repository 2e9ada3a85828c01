"""From a proxy of the configuration to its handler: servers, which outlive the revision, and the rules of the route.

A server is leased by everything that its connections depend on, a group by its servers and how they are chosen. So a
reload that adds a server, or changes a header, closes no connection and forgets no health.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from velocity_edge.config.balancing import ActiveHealth
from velocity_edge.config.upstream_url import UpstreamUrl
from velocity_edge.config.upstreams import HOSTS, RESOLV_CONF, SYSTEM_ROOTS, HeaderChanges, Upstream, UpstreamServer
from velocity_edge.errors import ConfigError
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.http.upstreams import PoolSettings, TlsClient
from workers.files import Roots, read_file
from workers.handlers.resources import Lease
from workers.http import HeadEdit, Headers
from workers.proxy.context import ProxyContext
from workers.proxy.fields import FieldRules
from workers.proxy.group import Group, GroupSettings
from workers.proxy.handler import NO_LIMIT, ProxyHandler, RouteRules
from workers.proxy.health import ActiveRules, PassiveRules
from workers.proxy.probes import ProbeRules
from workers.proxy.retry import OUTCOMES, RetryRules
from workers.proxy.server import Server, ServerSettings

#: Of a bundle of certificate authorities, a chain or a key.
_MAX_PEM_BYTES: Final = 4 * 1024 * 1024
_MAX_SYSTEM_BYTES: Final = 1024 * 1024


def proxy_of(
    upstream: Upstream,
    context: ProxyContext,
    lease: Lease,
    roots: Roots,
    *,
    max_body_bytes: int,
    trusted: TrustedProxies,
    reads_body: bool,
) -> ProxyHandler:
    """Return the handler. Raises `ConfigError`.

    *max_body_bytes*: where the proxy has no limit of its own. *reads_body*: a middleware around it does.
    """
    settings = tuple(
        (_server_settings(upstream, server, url, roots), server.weight) for server, url in upstream.servers()
    )
    servers = [lease.take(Server, each, _opener(each, context)) for each, _ in settings]
    for server in servers:
        lease.when_active(server.start)
    if any(url.is_name for _, url in upstream.servers()):
        resolv_conf, hosts = (_system_file(roots, path) for path in (RESOLV_CONF, HOSTS))
        lease.when_active(lambda: context.names.use(resolv_conf, hosts))
    balancing = upstream.lb
    group_settings = GroupSettings(
        settings,
        balancing.policy,
        (balancing.header or "").encode(),
        (balancing.cookie or "").encode(),
        (balancing.sticky or "").encode(),
        RetryRules(
            upstream.retries.attempts,
            frozenset(outcome for word in upstream.retries.on for outcome in OUTCOMES[word]),
        ),
        upstream.retries.budget,
        upstream.queue.max,
        upstream.queue.timeout_s,
    )
    group = lease.take(Group, group_settings, lambda: Group(group_settings, servers, context))
    limit = upstream.max_request_body_bytes
    rules = RouteRules(
        _field_rules(upstream),
        _edit(upstream.headers.response),
        max_body_bytes if limit is None else limit or NO_LIMIT,
        upstream.websocket,
        trusted,
    )
    return ProxyHandler(group, rules, context, reads_body=reads_body)


def _opener(settings: ServerSettings, context: ProxyContext) -> Callable[[], Server]:
    return lambda: Server(settings, context)


def _server_settings(upstream: Upstream, server: UpstreamServer, url: UpstreamUrl, roots: Roots) -> ServerSettings:
    passive = upstream.health.passive
    return ServerSettings(
        url,
        _pool(upstream, server, url, roots),
        PassiveRules(passive.fails, passive.window_s, passive.ejection_s),
        _ranges(passive.status),
        _probe(upstream.health.active),
    )


def _pool(upstream: Upstream, server: UpstreamServer, url: UpstreamUrl, roots: Roots) -> PoolSettings:
    timeouts = upstream.timeouts
    most = server.max_connections or upstream.max_connections
    protocol: Mapping[str, str] = {"h2c": "h2", "auto": {"https": "auto", "h2c": "h2"}.get(url.scheme, "h1")}
    return PoolSettings(
        protocol=protocol.get(upstream.protocol, upstream.protocol),  # type: ignore[arg-type]
        tls=_tls(upstream, url, roots) if url.scheme == "https" else None,
        connect_timeout_ns=_ns(timeouts.connect_s),
        response_timeout_ns=_ns(timeouts.response_s),
        idle_timeout_ns=_ns(timeouts.idle_s),
        keepalive_timeout_ns=_ns(upstream.keepalive_s),
        max_connections=most,
        max_idle_connections=min(upstream.max_idle, most),
        max_requests_per_connection=upstream.max_requests_per_connection,
        tcp_keepalive_ns=_ns(upstream.tcp_keepalive_s),
    )


def _tls(upstream: Upstream, url: UpstreamUrl, roots: Roots) -> TlsClient:
    tls = upstream.tls
    ca = certificate = key = None
    if tls is not None and tls.ca is not None:
        ca = read_file(roots, tls.ca, _MAX_PEM_BYTES)
        _certificates(ca, str(tls.ca))
    elif tls is None or tls.verify:
        ca = next((read_file(roots, path, _MAX_PEM_BYTES) for path in SYSTEM_ROOTS if str(path) in roots), None)
    if tls is not None and tls.certificate is not None and tls.private_key is not None:
        certificate = read_file(roots, tls.certificate, _MAX_PEM_BYTES)
        key = read_file(roots, tls.private_key, _MAX_PEM_BYTES)
        leaf = _certificates(certificate, str(tls.certificate))[0]
        try:
            own = load_pem_private_key(key, None).public_key()
        except (ValueError, TypeError):
            raise ConfigError(f"cannot use {tls.private_key}: expected a PEM private key without a password") from None
        if own != leaf.public_key():
            raise ConfigError(f"cannot use {tls.private_key}: it is not the key of {tls.certificate}")
    name = tls.server_name if tls is not None and tls.server_name is not None else url.host
    return TlsClient(name, ca, certificate, key, tls is None or tls.verify)


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"cannot use {name}: no PEM certificate in it") from None


def _probe(active: ActiveHealth | None) -> ProbeRules | None:
    if active is None:
        return None
    return ProbeRules(
        active.path,
        active.interval_s,
        active.timeout_s,
        _ranges(active.status),
        (active.body or "").encode(),
        active.host or "",
        ActiveRules(active.passes, active.fails),
    )


def _field_rules(upstream: Upstream) -> FieldRules:
    changes = upstream.headers.request
    return FieldRules(
        upstream.preserve_host,
        upstream.via,
        upstream.forwarded,
        tuple(_fields(changes.set)),
        tuple(_fields(changes.add)),
        tuple(name.encode() for name in changes.remove),
        upstream.strip_prefix or "",
        upstream.rewrite or "",
    )


def _edit(changes: HeaderChanges) -> HeadEdit:
    remove = frozenset(name.encode() for name in changes.remove)
    return HeadEdit(remove, tuple(_fields(changes.set)), tuple(_fields(changes.add)))


def _fields(fields: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in fields.items()]


def _ranges(texts: list[str]) -> tuple[tuple[int, int], ...]:
    pairs = (text.partition("-") for text in texts)
    return tuple((int(low), int(high or low)) for low, _, high in pairs)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _system_file(roots: Roots, path: Path) -> str:
    """Return the content of a file that a system may lack."""
    return read_file(roots, path, _MAX_SYSTEM_BYTES).decode("utf-8", "replace") if str(path) in roots else ""
