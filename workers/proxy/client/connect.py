"""From addresses to a connection: happy eyeballs (RFC 8305), unix sockets, TLS, and the protocol that ALPN chose.

The next address is tried when the one before has failed, or after 250 ms. The first connection wins; the others are
closed. Limits of time and number are the pool's (pool.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from asyncio.staggered import staggered_race
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import PoolSettings, SocketAddress
from workers.proxy.client import tls
from workers.proxy.client.answers import AttemptFailed
from workers.proxy.client.h1 import H1Connection
from workers.proxy.client.h2 import H2Connection

Connection = H1Connection | H2Connection

#: RFC 8305 section 5, "Connection Attempt Delay".
_NEXT_AFTER_S: Final = 0.25
#: A server that does not answer our close_notify gets no more time.
_TLS_GOODBYE_S: Final = 1.0


class _Early(asyncio.Protocol):
    """Keeps what a server sends before its protocol is known: at most what arrives in one turn of the loop."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.eof = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True


def _failed(reason: str) -> AttemptFailed:
    return AttemptFailed(Outcome.CONNECT_FAILED, reason)


async def connect(
    addresses: Sequence[SocketAddress],
    settings: PoolSettings,
    changed: Callable[[Any], None],
    *,
    h1_only: bool = False,
) -> Connection:
    """Return a connection that is ready for a request. Raises `AttemptFailed`; the caller limits the time."""
    sock, address = await _first_of(addresses, settings)
    alpn = {"h1": ("http/1.1",), "h2": ("h2",), "auto": ("h2", "http/1.1")}[settings.protocol]
    alpn = ("http/1.1",) if h1_only else alpn
    context = None if settings.tls is None else tls.context(settings.tls, alpn)
    loop = asyncio.get_running_loop()
    try:
        transport, early = await loop.create_connection(
            _Early,
            sock=sock,
            ssl=context,
            server_hostname=settings.tls.server_name if settings.tls else None,
            ssl_handshake_timeout=settings.connect_timeout_ns / 1e9 if context else None,
            ssl_shutdown_timeout=_TLS_GOODBYE_S if context else None,
        )
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise _failed(tls.fault(error)) from None
        if isinstance(error, OSError):
            raise _failed(_words(error) if error.errno else "TLS failed: closed during the handshake") from None
        raise
    chosen = None
    if context is not None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen != "h2" and settings.protocol == "h2":
            transport.abort()
            raise _failed("the upstream does not offer HTTP/2 by ALPN")
    is_h2 = chosen == "h2" or (context is None and settings.protocol == "h2" and not h1_only)
    made: Connection = (H2Connection if is_h2 else H1Connection)(settings, address, changed)
    try:
        await _begin(made, transport, early)
    except BaseException:
        transport.abort()
        raise
    return made


async def _begin(made: Connection, transport: asyncio.Transport, early: _Early) -> None:
    transport.set_protocol(made)
    made.connection_made(transport)
    for data in early.data:
        made.data_received(data)
    if early.eof:
        made.eof_received()
    if early.lost:
        made.connection_lost(None)
    if isinstance(made, H2Connection):
        await asyncio.shield(made.ready)
        if not made.free:
            raise _failed(f"no HTTP/2 connection: {made.fault}")
    elif not made.free:
        raise _failed("closed as soon as it was open")


async def _first_of(addresses: Sequence[SocketAddress], settings: PoolSettings) -> tuple[socket.socket, SocketAddress]:
    if not addresses:
        raise _failed("no address")
    if len(addresses) == 1:
        try:
            return await _open(addresses[0], settings)
        except OSError as error:
            raise _failed(_words(error)) from None
    winner, _, errors = await staggered_race([partial(_open, one, settings) for one in addresses], _NEXT_AFTER_S)
    found: tuple[socket.socket, SocketAddress] | None = winner
    if found is None:
        first = errors[0]
        raise _failed(_words(first) if isinstance(first, OSError) else "no address answers")
    return found


async def _open(address: SocketAddress, settings: PoolSettings) -> tuple[socket.socket, SocketAddress]:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if settings.tcp_keepalive_ns:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                idle_s = max(1, settings.tcp_keepalive_ns // 1_000_000_000)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        with contextlib.suppress(OSError):
            sock.close()
        raise
    return sock, address


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else "cannot connect"
