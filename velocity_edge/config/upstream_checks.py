"""Whether the upstreams of a configuration can be reached as it says: names resolve, TLS files can be used.

`config lint` and `serve --dry-run` call this. A node that starts does not: a name that cannot be resolved now may be
resolved later, and its files are read again by the workers.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from velocity_edge.config.actions import ProxyAction
from velocity_edge.config.content import Content
from velocity_edge.config.section import KeyPath, Problem
from velocity_edge.config.upstreams import Upstream, UpstreamTls

#: Names that are resolved at the same time; an unreachable name server costs seconds for each.
_AT_ONCE: Final = 16


def upstream_problems(content: Content) -> Iterator[Problem]:
    """Yield names that do not resolve, and files of TLS that cannot be used."""
    upstreams = list(_upstreams(content))
    names = {url.host for _, upstream in upstreams for _, url in upstream.servers() if url.is_name}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        failures = dict(zip(sorted(names), pool.map(_unresolved, sorted(names)), strict=True))
    for where, upstream in upstreams:
        for i, (_, url) in enumerate(upstream.servers()):
            key = ("upstream",) if upstream.upstream is not None else ("upstreams", str(i), "url")
            if why := failures.get(url.host, "") if url.is_name else "":
                yield (
                    (*where, *key),
                    f"cannot resolve {url.host!r}: {why}; expected a name that the system's name servers know",
                )
        if upstream.tls is not None:
            yield from (((*where, "tls", key), text) for key, text in _tls_problems(upstream.tls))


def _upstreams(content: Content) -> Iterator[tuple[KeyPath, Upstream]]:
    for i, proxy in enumerate(content.proxies):
        yield ("content", "proxies", str(i)), proxy
    for i, route in enumerate(content.routes):
        if isinstance(route.action, ProxyAction):
            yield ("content", "routes", str(i), "action"), route.action


def _unresolved(name: str) -> str:
    """Return why *name* has no address; empty when it has one."""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return str(error.strerror)
    return ""


def _tls_problems(tls: UpstreamTls) -> Iterator[tuple[str, str]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None and _is_there(tls.ca):
        try:
            context.load_verify_locations(tls.ca)
        except ssl.SSLError as error:
            yield "ca", f"cannot use {tls.ca}: {_reason(error)}; expected certificates (PEM)"
    if tls.certificate is None or tls.private_key is None:
        return
    if _is_there(tls.certificate) and _is_there(tls.private_key):
        try:
            context.load_cert_chain(tls.certificate, tls.private_key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            yield (
                "private_key",
                f"cannot use {tls.private_key} with {tls.certificate}: {_reason(error)}; expected a certificate chain "
                "and its private key (PEM, not encrypted)",
            )


def _is_there(path: Path) -> bool:
    """Whether the file can be read; otherwise servable.py reports it."""
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


def _no_password() -> str:
    raise ValueError("it is encrypted")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
