"""An HTTP/3 client: connects, sends requests, streams responses, and reports what was negotiated and the timings.

    async with connect("https://localhost:4433/", Options(insecure=True)) as connection:
        response = await connection.request("GET", "/")
        async for chunk in response: ...

It does not follow redirects or Alt-Svc, and retries only with the next address of a name. Errors are `VelocityError`s
that begin with "cannot". Memory is bounded by the flow control windows: the server cannot send more of a response that
is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aioquic.buffer import UINT_VAR_MAX

from velocity_edge.client.facts import HandshakeFacts, Timings
from velocity_edge.client.h3_connection import NO_VIABLE, Connection, HeaderPairs
from velocity_edge.client.options import Options, client_policy, split_url
from velocity_edge.client.response import Response
from velocity_edge.errors import Unreachable

__all__ = ["Connection", "Fetched", "Options", "Response", "Timings", "connect", "fetch", "split_url"]


@contextlib.asynccontextmanager
async def connect(url: str, options: Options | None = None) -> AsyncIterator[Connection]:
    """Connect to the server of *url*, trying the addresses of its name in turn. Raises a `VelocityError`."""
    options = options or Options()
    parts = split_url(url)
    policy = client_policy(parts, options)
    loop = asyncio.get_running_loop()
    started_s = time.monotonic()
    host, port = options.resolve or (parts.hostname or "", parts.port or 443)
    addresses = await _resolve(url, host, port)
    resolve_s = time.monotonic() - started_s
    last: Unreachable | None = None
    for family, address in addresses:
        try:
            transport, connection = await loop.create_datagram_endpoint(
                lambda: Connection(url, policy, options), remote_addr=address[:2], family=family
            )
        except OSError as error:
            last = Unreachable(NO_VIABLE.format(url=url, why=f"{address[0]}: {error.strerror}"))
            continue
        connection.timings.resolve_s = resolve_s
        try:
            await connection.establish(address[:2])
        except Unreachable as error:
            transport.close()
            if connection.refused:
                # The other addresses belong to the same server.
                raise
            last = error
            continue
        try:
            yield connection
        finally:
            connection.timings.total_s = time.monotonic() - started_s
            connection.close()
            transport.close()
        return
    assert last is not None
    raise last


async def _resolve(url: str, host: str, port: int) -> list[tuple[int, Any]]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Unreachable(NO_VIABLE.format(url=url, why=f"{host}: {why}")) from None
    return [(family, address) for family, _, _, _, address in found]


@dataclass(frozen=True, slots=True)
class Fetched:
    """One request and its response."""

    url: str
    address: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)
    handshake: HandshakeFacts
    timings: Timings

    def as_json(self) -> Mapping[str, Any]:
        """Return everything but the content."""
        return {
            "url": self.url,
            "address": self.address,
            "status": self.status,
            "headers": [list(pair) for pair in self.headers],
            "body_bytes": len(self.body),
            "handshake": self.handshake.as_json(),
            "timings": self.timings.as_json(),
        }


async def fetch(
    url: str,
    options: Options | None = None,
    *,
    method: str = "GET",
    headers: HeaderPairs = (),
    body: bytes | None = None,
    max_bytes: int = UINT_VAR_MAX,
) -> Fetched:
    """Send one request in a connection of its own. Raises a `VelocityError`."""
    async with connect(url, options) as connection:
        response = await connection.request(method, None, headers, body)
        content = await response.read(max_bytes)
    return Fetched(
        url=url,
        address=connection.address,
        status=response.status,
        headers=response.headers,
        body=content,
        handshake=connection.handshake,
        timings=connection.timings,
    )
