"""From the sections of authentication to their guards: reads their files, leases what lives longer than a revision.

Fetched keys, what is known of a provider, and verified passwords survive a reload that does not change their settings.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, assert_never

from velocity_edge.config.middlewares.basic import Basic
from velocity_edge.config.middlewares.forward_auth import ForwardAuth
from velocity_edge.config.middlewares.jwt import Jwt
from velocity_edge.config.middlewares.oidc import Oidc
from velocity_edge.config.upstreams import HOSTS, RESOLV_CONF
from velocity_edge.errors import ConfigError
from velocity_edge.http.passwords import UnusableEntry, parse_file
from workers.files import Roots, read_file
from workers.handlers.build import HandlerContext
from workers.handlers.resources import Lease
from workers.middleware.auth.basic import BasicGuard, Verifier
from workers.middleware.auth.document import Document
from workers.middleware.auth.fetching import MAX_BYTES, Fetcher
from workers.middleware.auth.forward_auth import MAX_BYTES as MAX_ANSWER_BYTES
from workers.middleware.auth.forward_auth import ForwardAuthGuard
from workers.middleware.auth.guard import Guard
from workers.middleware.auth.host_names import HostNames
from workers.middleware.auth.jwt import JwtGuard
from workers.middleware.auth.key_set import UnusableKeys, parse_pem, parse_secret, parse_set
from workers.middleware.auth.oidc import OidcGuard
from workers.middleware.auth.provider import ProviderClient, key_document
from workers.middleware.auth.tokens import Key

Section = Basic | ForwardAuth | Jwt | Oidc

_MAX_KEYS_BYTES: Final = 256 * 1024
_MAX_SECRET_BYTES: Final = 4096
_MAX_CA_BYTES: Final = 4 * 1024 * 1024
_MAX_USERS_BYTES: Final = 4 * 1024 * 1024


def guard_of(section: Section, context: HandlerContext, lease: Lease, roots: Roots) -> Guard:
    """Return the middleware that *section* defines. Raises `ConfigError`, also for files that cannot be used."""
    match section:
        case Basic():
            return _basic(section, context, lease, roots)
        case ForwardAuth():
            fetch = fetcher(section.timeout_s, section.ca, roots, context, lease, MAX_ANSWER_BYTES)
            return ForwardAuthGuard(section, context.measures, fetch)
        case Jwt():
            return JwtGuard(section, context.measures, context.clock, _keys(section, context, lease, roots))
        case Oidc():
            return _oidc(section, context, lease, roots)
        case _ as unknown:
            assert_never(unknown)


def _basic(section: Basic, context: HandlerContext, lease: Lease, roots: Roots) -> Guard:
    content = read_file(roots, section.users, _MAX_USERS_BYTES)
    try:
        users = parse_file(content)
    except UnusableEntry as error:
        raise ConfigError(f"{section.users}: {error}") from None
    settings = section.name, hashlib.sha256(content).digest(), section.max_failures
    verifier = lease.take(Verifier, settings, lambda: Verifier(users, section.max_failures))
    return BasicGuard(section, context.measures, verifier)


def _keys(
    section: Jwt, context: HandlerContext, lease: Lease, roots: Roots
) -> tuple[Key, ...] | Document[tuple[Key, ...]]:
    if section.jwks_url is not None:
        url = section.jwks_url
        fetch = fetcher(5.0, section.ca, roots, context, lease)
        return lease.take(Document, (url, fetch.ca_pem), lambda: key_document(url, fetch))
    for path, parse in ((section.jwks, parse_set), (section.key, parse_pem), (section.secret_file, parse_secret)):
        if path is not None:
            try:
                return parse(read_file(roots, path, _MAX_KEYS_BYTES))
            except UnusableKeys as error:
                raise ConfigError(f"{path}: {error}") from None
    raise ConfigError("cannot verify tokens without keys")


def _oidc(section: Oidc, context: HandlerContext, lease: Lease, roots: Roots) -> Guard:
    secret = section.client_secret
    if section.client_secret_file is not None:
        try:
            secret = read_file(roots, section.client_secret_file, _MAX_SECRET_BYTES).decode("utf-8").strip()
        except UnicodeDecodeError:
            secret = ""
        if not secret:
            raise ConfigError(f"{section.client_secret_file}: cannot use it: expected one line with the secret")
    fetch = fetcher(section.timeout_s, section.ca, roots, context, lease)
    settings = section.issuer, fetch.ca_pem, section.timeout_s, section.insecure
    provider = lease.take(
        ProviderClient, settings, lambda: ProviderClient(section.issuer, fetch, insecure=section.insecure)
    )
    return OidcGuard(section, context.measures, context.clock, context.sealer, provider, secret)


def fetcher(
    timeout_s: float,
    ca: Path | None,
    roots: Roots,
    context: HandlerContext,
    lease: Lease,
    max_bytes: int = MAX_BYTES,
) -> Fetcher:
    """Return what sends small requests, with the authorities of *ca* and the names of this machine."""
    ca_pem = None if ca is None else read_file(roots, ca, _MAX_CA_BYTES)
    resolv_conf, hosts = (_system_file(roots, path) for path in (RESOLV_CONF, HOSTS))
    if resolv_conf or hosts:
        lease.when_active(lambda: context.proxies.names.use(resolv_conf, hosts))
    names = lease.take(HostNames, "authentication", lambda: HostNames(context.proxies.names))
    return Fetcher(timeout_s, ca_pem, names, max_bytes)


def _system_file(roots: Roots, path: Path) -> str:
    """Return the content of a file that a system may lack."""
    return read_file(roots, path, _MAX_CA_BYTES).decode("utf-8", "replace") if str(path) in roots else ""
