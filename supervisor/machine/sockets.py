"""Opens the sockets of the listeners by their transport. UDP: one socket per slot, all in one SO_REUSEPORT group.

Sockets are opened in the order of slots, because classic BPF (tier A) selects them by that order. Options for reading
(GRO, packet info, TOS) are set by the worker that reads. This file does what only the supervisor can do: privileged
ports, buffers above net.core.rmem_max, and the guarantee that no other program is in the group. With SO_REUSEPORT a
second program of the same user would join silently and take its share of the packets, so a socket without the option is
bound first, as a probe.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, replace
from typing import Final, assert_never

from supervisor.machine.holders import who_listens
from velocity_edge.config.values import format_address
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener

#: 4 MiB holds about 25 ms of 1 Gbit/s of small packets (each costs the kernel 768 bytes or more). A worker may be busy
#: with post-quantum handshakes for that long; Linux's default of 208 KiB overflows in 1 ms.
WANTED_BUFFER_BYTES: Final = 4 * 1024 * 1024

_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffers of one socket in bytes, without the doubling that the kernel adds for its own use."""

    receive_bytes: int
    send_bytes: int


def open_listeners(wanted: list[Listener], slots: int) -> tuple[list[Listener], list[list[socket.socket]]]:
    """Open every listener for all slots; return the listeners with their bound ports, and sockets[listener][slot].

    Raises `VelocityError`: "cannot listen on 0.0.0.0:443: ..."; no socket stays open then.
    """
    listeners: list[Listener] = []
    groups: list[list[socket.socket]] = []
    try:
        for listener in wanted:
            only_v6 = _only_v6(listener, wanted)
            bound, group = _open(listener, slots, only_v6=only_v6)
            listeners.append(bound)
            groups.append(group)
    except BaseException:
        for group in groups:
            for sock in group:
                sock.close()
        raise
    return listeners, groups


def open_one_more(listener: Listener, wanted: list[Listener]) -> socket.socket:
    """Open one more socket of a listener: for a slot whose descriptors were lost with the processes that held them."""
    return _bind(listener, only_v6=_only_v6(listener, wanted), shared=True)


def _only_v6(listener: Listener, wanted: list[Listener]) -> bool:
    """Return IPV6_V6ONLY: `[::]` serves IPv4, too, unless IPv4 has a listener of its own on that port."""
    if listener.host != "::":
        return True
    key = listener.transport, listener.port
    return any(":" not in other.host and (other.transport, other.port) == key for other in wanted)


def _open(listener: Listener, slots: int, *, only_v6: bool) -> tuple[Listener, list[socket.socket]]:
    probe = _bind(listener, only_v6=only_v6, shared=False)
    bound = replace(listener, port=probe.getsockname()[1])
    probe.close()
    group: list[socket.socket] = []
    try:
        for _ in range(slots):
            group.append(_bind(bound, only_v6=only_v6, shared=True))
    except BaseException:
        for sock in group:
            sock.close()
        raise
    return bound, group


def _bind(listener: Listener, *, only_v6: bool, shared: bool) -> socket.socket:
    match listener.transport:
        case "udp":
            kind = socket.SOCK_DGRAM
        case "tcp":
            raise VelocityError(f"cannot listen on {format_address(listener)}: this version does not support TCP")
        case _:
            assert_never(listener.transport)
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
                try:
                    sock.setsockopt(socket.SOL_SOCKET, forced, WANTED_BUFFER_BYTES)
                except OSError:  # needs CAP_NET_ADMIN
                    sock.setsockopt(socket.SOL_SOCKET, plain, WANTED_BUFFER_BYTES)
        # bind() ignores the interface in "fe80::1%eth0"; getaddrinfo resolves it, and sends no DNS query here.
        [(*_, name), *_] = socket.getaddrinfo(listener.host, listener.port, family, flags=socket.AI_NUMERICHOST)
        sock.bind(name)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise VelocityError(f"cannot listen on {format_address(listener)}: {_reason(error, listener)}") from None
    return sock


def _reason(error: OSError, listener: Listener) -> str:
    match error.errno:
        case errno.EACCES:
            return "permission denied: needs CAP_NET_BIND_SERVICE or a port above 1023"
        case errno.EADDRINUSE:
            return who_listens(listener)
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address: `ip address` shows those it has"
        case socket.EAI_NONAME:
            return "this machine does not have that interface: `ip link` shows those it has"
        case errno.EAFNOSUPPORT:
            return "this machine has no IPv6; configure an IPv4 address"
        case _:
            return error.strerror or str(error)


def buffers(sock: socket.socket) -> Buffers:
    """Return the buffer sizes of a socket."""
    return Buffers(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
    )


def drops(sock: socket.socket) -> int:
    """Return how many datagrams the kernel dropped because the socket's receive buffer was full."""
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    return int(struct.unpack_from("=I", raw, 4 * _MEMINFO_DROPS)[0])
