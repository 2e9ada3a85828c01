"""One small request by URL: keys of an identity provider, tokens, a health probe, an authorization server, an export.

Each has a connection of its own and one time limit for all of it, names and body included. Redirects are not followed:
none of these protocols needs them, and following one would ask a server that nobody configured.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings, SocketAddress, TlsClient
from workers.proxy.client.answers import AttemptFailed, ResponseBody
from workers.proxy.client.client import Client


class Resolver(Protocol):
    """Names to addresses. IP literals are never asked for."""

    async def resolve(self, host: str) -> list[str]:
        """Return IPv4 and IPv6 addresses in the order in which to try them; [] when the name has none."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete response. Names of fields in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a field."""
        return next((value for key, value in self.headers if key == name), None)


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    tls: TlsClient | None = None,
    timeout_s: float,
    max_bytes: int,
    resolver: Resolver | None = None,
    addresses: Sequence[SocketAddress] | None = None,
    settings: PoolSettings | None = None,
) -> Fetched:
    """Return the response of *url* (http or https).

    *tls*: other than the system's authorities and the name of the URL, whose name is used where it has none.
    *addresses*: where to connect instead of where the URL says, as a unix socket. *settings*: protocol and limits;
    their times and TLS are replaced. Raises `AttemptFailed`, also for a body above *max_bytes* and for a name without
    an address; `ValueError` for a URL or fields that cannot be sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(f"cannot fetch {parts.scheme}:...: expected http:// or https://, and a host")
    if parts.scheme == "https":
        tls = tls or TlsClient("")
        tls = replace(tls, server_name=tls.server_name or parts.hostname)
    limit_ns = int(timeout_s * 2e9)  # never before the limit of all of it
    client = Client(
        replace(
            settings or PoolSettings(),
            tls=tls if parts.scheme == "https" else None,
            connect_timeout_ns=limit_ns,
            response_timeout_ns=limit_ns,
            idle_timeout_ns=limit_ns,
        )
    )
    request = ForwardRequest(
        method.encode("ascii"), _target(parts), _authority(parts), list(headers), max_body_bytes=len(body)
    )
    try:
        async with asyncio.timeout(timeout_s):
            client.use_addresses(await _addresses(parts, resolver) if addresses is None else addresses)
            response = await client.request(request, body)
            return Fetched(response.status, response.headers, await _read(response.body, max_bytes))
    except TimeoutError:
        connected = client.counts().requests > 0
        outcome = Outcome.RESPONSE_TIMEOUT if connected else Outcome.CONNECT_TIMEOUT
        raise AttemptFailed(outcome, f"no response within {timeout_s:g} s") from None
    finally:
        client.close()


async def _read(chunks: ResponseBody, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            chunks.abort()
            raise AttemptFailed(Outcome.INVALID, f"a response of more than {max_bytes} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _target(parts: SplitResult) -> bytes:
    path = parts.path or "/"
    return (f"{path}?{parts.query}" if parts.query else path).encode("utf-8")


def _authority(parts: SplitResult) -> bytes:
    return parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")


async def _addresses(parts: SplitResult, resolver: Resolver | None) -> list[SocketAddress]:
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        return [(str(ipaddress.ip_address(host)), port)]
    except ValueError:
        pass
    found = [] if resolver is None else await resolver.resolve(host)
    if not found:
        raise AttemptFailed(Outcome.CONNECT_FAILED, "the host's name has no address")
    return [(address, port) for address in found]
