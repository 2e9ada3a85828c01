"""The format of the hand-over links, by which a datagram reaches the worker that owns it.

A link is a SOCK_SEQPACKET pair, so a packet is one datagram with 52 bytes before it, all in network byte order:

    offset  size
         0     1  version, 1
         1     1  TOS or traffic class as received
         2     2  listener (index into Equip.listeners, the same in every worker of a node)
         4     1  length of both addresses, 4 or 16
         5     3  zero
         8     8  received_ns: CLOCK_MONOTONIC when the first worker received it, never 0
        16    16  peer address, left-aligned, zero-padded
        32    16  local address, likewise
        48     2  peer port
        50     2  local port
        52     -  the datagram

The native engine reads and writes the same bytes in C (native/answers.c). `decode` raises `HandoverError` and nothing
else: a link is between processes of one node, but a worker must survive a defect of another.
"""

from __future__ import annotations

import struct
from typing import Final

from velocity_edge.quic.datagrams import Train

VERSION: Final = 1
_HEADER: Final = struct.Struct("!BBHB3xQ16s16sHH")
HEADER_LENGTH: Final = _HEADER.size
#: The largest UDP payload; a longer packet is not a hand-over packet.
MAX_DATAGRAM_LENGTH: Final = 65_527


class HandoverError(ValueError):
    """A packet on a hand-over link that is not a hand-over packet."""


def encode(datagram: bytes, train: Train, received_ns: int) -> bytes:
    """Return the packet for one *datagram* (a segment of *train*) that was received at *received_ns*."""
    peer_ip, peer_port = train.peer
    local_ip, local_port = train.local
    header = _HEADER.pack(
        VERSION, train.tos, train.listener, len(peer_ip), received_ns, peer_ip, local_ip, peer_port, local_port
    )
    return header + datagram


def decode(packet: bytes) -> Train:
    """Return the datagram as a train of one, with `received_ns` set, or raise `HandoverError`."""
    if not HEADER_LENGTH < len(packet) <= HEADER_LENGTH + MAX_DATAGRAM_LENGTH:
        raise HandoverError(f"a hand-over packet has more than {HEADER_LENGTH} bytes, this one has {len(packet)}")
    version, tos, listener, length, received_ns, peer, local, peer_port, local_port = _HEADER.unpack_from(packet)
    if version != VERSION or length not in (4, 16) or received_ns == 0 or any(packet[5:8]):
        raise HandoverError(f"not a hand-over packet of version {VERSION}: {packet[:16].hex()}")
    if any(peer[length:]) or any(local[length:]):
        raise HandoverError(f"expected zeros after an address of {length} bytes")
    datagram = packet[HEADER_LENGTH:]
    return Train(
        data=datagram,
        segment_size=len(datagram),
        peer=(peer[:length], peer_port),
        local=(local[:length], local_port),
        listener=listener,
        tos=tos,
        received_ns=received_ns,
    )
