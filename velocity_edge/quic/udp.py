"""The options of a listener's UDP socket that engines need, and the numbers of the kernel's control messages.

Numbers are those of Linux on every architecture we run on; Python 3.11 has no names for them.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVTOS: Final = 13
IP_PMTUDISC_PROBE: Final = 3
IPV6_MTU_DISCOVER: Final = 23
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
SO_RXQ_OVFL: Final = 40
SO_MEMINFO: Final = 55
SK_MEMINFO_DROPS: Final = 8

#: struct in_pktinfo (interface, local, header destination) and in6_pktinfo (address, interface).
PKTINFO4_LENGTH: Final = 12
PKTINFO6_LENGTH: Final = 20
V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def dropped_datagrams(sock: socket.socket) -> int:
    """Return how many datagrams this socket has dropped since it was made (32 bits), for lack of buffer space."""
    information = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (SK_MEMINFO_DROPS + 1))
    return int.from_bytes(information[4 * SK_MEMINFO_DROPS :], sys.byteorder)


def prepare_descriptor(fd: int) -> list[str]:
    """Call `prepare` for the socket of a descriptor, which stays open."""
    sock = socket.socket(fileno=fd)
    try:
        return prepare(sock)
    finally:
        sock.detach()


def prepare(sock: socket.socket) -> list[str]:
    """Set the options on *sock*; return the names of those that this kernel lacks.

    UDP_GRO (5.0) is for speed, SO_RXQ_OVFL for counting; the others are required, and without them OSError is raised.
    """
    sock.setblocking(False)
    v6 = sock.family == socket.AF_INET6
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        # Don't fragment: QUIC probes the size of the path itself (RFC 9000 section 14).
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    if not v6 or not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        # A dual-stack socket reports IPv4 peers by the options of IPv4.
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    missing: list[str] = []
    for name, level, option in (("UDP_GRO", SOL_UDP, UDP_GRO), ("SO_RXQ_OVFL", socket.SOL_SOCKET, SO_RXQ_OVFL)):
        try:
            sock.setsockopt(level, option, 1)
        except OSError:
            missing.append(name)
    return missing


def scoped(address: bytes, interface: int) -> bytes:
    """Return the packed *address* as engines see it (requests.Address): a link-local one with its interface in it."""
    return address[:4] + interface.to_bytes(4, "big") + address[8:] if _is_link_local(address) else address


def unscoped(address: bytes) -> tuple[bytes, int]:
    """Return the packed address as it is on the wire, and the index of its interface or 0."""
    if not _is_link_local(address):
        return address, 0
    return address[:4] + bytes(4) + address[8:], int.from_bytes(address[4:8], "big")


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
