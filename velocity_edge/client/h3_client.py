"""An HTTP/3 client: connect, ask, stream the answer, and say what was negotiated and how long each part took.

    async with connect("https://localhost:4433/", Options(insecure=True)) as connection:
        response = await connection.request("GET", "/")
        async for chunk in response: ...

It follows nothing (redirects, Alt-Svc) and retries nothing but the next address of a name. What goes wrong is a
`VelocityError` that begins with "cannot". Memory is bounded by the windows: a response that nobody reads stops coming.
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

from velocity_edge.client.facts import HandshakeFacts
from velocity_edge.client.h3_connection import NO_VIABLE, Connection, HeaderPairs, Timings
from velocity_edge.client.options import Options, client_policy, split_url
from velocity_edge.client.response import Response
from velocity_edge.errors import Unreachable

__all__ = ["Connection", "Fetched", "Options", "Response", "Timings", "connect", "fetch", "split_url"]


@contextlib.asynccontextmanager
async def connect(url: str, options: Options | None = None) -> AsyncIterator[Connection]:
    """Connect to the server of *url*, in turn to each address of its name. Raises a `VelocityError`."""
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
            if connection._quic.failure is not None and connection._quic.failure.frame_type is not None:
                # It spoke: the other addresses are the same server.
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
    """A whole exchange."""

    url: str
    address: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)
    handshake: HandshakeFacts
    timings: Timings

    def as_json(self) -> Mapping[str, Any]:
        """Return everything but the body."""
        t = self.timings
        return {
            "url": self.url,
            "address": self.address,
            "status": self.status,
            "headers": [list(pair) for pair in self.headers],
            "body_bytes": len(self.body),
            "handshake": self.handshake.as_json(),
            "timings": {
                "resolve_s": t.resolve_s,
                "handshake_s": t.handshake_s,
                "first_byte_s": t.first_byte_s,
                "total_s": t.total_s,
            },
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
    """Do one exchange in a connection of its own. Raises a `VelocityError`."""
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
