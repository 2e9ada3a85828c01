"""Opening the UDP sockets: for each listener one per slot, all in one SO_REUSEPORT group.

Sockets are opened in the order of slots, because classic BPF (tier A) knows them by that order. What a datagram needs
to be read well (GRO, packet info, TOS) is set by whoever reads it. Here are the things that only the supervisor can do:
privileged ports, buffers above net.core.rmem_max, and the guarantee that nobody else is in the group. That last one
surprises: with SO_REUSEPORT a second program of the same user joins silently and takes its share of the packets, so a
probe without the option comes first.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

from supervisor.machine.holders import who_listens
from velocity_edge.config.values import format_address
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener

#: 4 MiB holds about 25 ms of 1 Gbit/s of small packets (each costs the kernel 768 bytes and more), which is how long a
#: worker may be busy with post-quantum handshakes; Linux's default of 208 KiB overflows in 1 ms.
WANTED_BUFFER_BYTES: Final = 4 * 1024 * 1024

_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8


@dataclass(frozen=True, slots=True)
class Buffers:
    """What one socket got, in bytes as the kernel counts them (the doubling taken back)."""

    receive_bytes: int
    send_bytes: int


def open_listeners(wanted: list[Listener], slots: int) -> tuple[list[Listener], list[list[socket.socket]]]:
    """Bind every listener once per slot; return the listeners with their real ports, and sockets[listener][slot].

    Raises `VelocityError`: "cannot listen on 0.0.0.0:443: ..."; nothing stays open then.
    """
    listeners: list[Listener] = []
    groups: list[list[socket.socket]] = []
    try:
        for listener in wanted:
            only_v6 = _only_v6(listener, wanted)
            bound, group = _open_group(listener, slots, only_v6=only_v6)
            listeners.append(bound)
            groups.append(group)
    except BaseException:
        for group in groups:
            for sock in group:
                sock.close()
        raise
    return listeners, groups


def open_one_more(listener: Listener, wanted: list[Listener]) -> socket.socket:
    """Bind one more socket of a group that exists: for a slot whose sockets died with their keepers."""
    return _bind(listener, only_v6=_only_v6(listener, wanted), shared=True)


def _only_v6(listener: Listener, wanted: list[Listener]) -> bool:
    """`[::]` serves IPv4, too, unless IPv4 has a listener of its own on that port."""
    if listener.host != "::":
        return True
    return any(":" not in other.host and other.port == listener.port for other in wanted)


def _open_group(listener: Listener, slots: int, *, only_v6: bool) -> tuple[Listener, list[socket.socket]]:
    probe = _bind(listener, only_v6=only_v6, shared=False)
    bound = Listener(listener.host, probe.getsockname()[1])
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
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
                try:
                    sock.setsockopt(socket.SOL_SOCKET, forced, WANTED_BUFFER_BYTES)
                except OSError:  # needs CAP_NET_ADMIN
                    sock.setsockopt(socket.SOL_SOCKET, plain, WANTED_BUFFER_BYTES)
        # Python's bind() forgets the interface in "fe80::1%eth0"; getaddrinfo has it, and looks up nothing here.
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
            return "this machine has no IPv6: an IPv4 address would be right"
        case _:
            return error.strerror or str(error)


def buffers(sock: socket.socket) -> Buffers:
    """Return the buffers that a socket got."""
    return Buffers(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2,
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2,
    )


def drops(sock: socket.socket) -> int:
    """Return how many datagrams the kernel dropped because the socket's receive buffer was full."""
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    return int(struct.unpack_from("=I", raw, 4 * _MEMINFO_DROPS)[0])
