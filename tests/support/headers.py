"""How far a frame can be parsed without the stack: a second implementation of bpf/frame.h, from the RFCs, over bytes.

It also builds extension headers and fragments (tests/support/packets.py has the rest).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from tests.support.packets import checksum

HOP_BY_HOP, UDP, ROUTING, FRAGMENT, DESTINATION = 0, 17, 43, 44, 60
TAGS = (0x8100, 0x88A8)

Kind = Literal["whole", "first", "rest", "chain", "tags", "other"]


@dataclass(frozen=True)
class Followed:
    """`udp`: where that header is; `left`: bytes of the IP payload from there on."""

    kind: Kind
    source: bytes = b""
    destination: bytes = b""
    udp: int = 0
    left: int = 0


def follow(frame: bytes) -> Followed:
    """Return how far *frame* (at least 14 bytes) can be parsed."""
    at, protocol = 14, int.from_bytes(frame[12:14], "big")
    vlans = tags = 0
    while protocol in TAGS and tags < 8:
        if len(frame) < at + 4:
            return Followed("other")
        tag, protocol = struct.unpack_from("!HH", frame, at)
        vlans += tag & 0xFFF != 0  # 0 is a priority, no VLAN
        tags += 1
        at += 4
    if vlans > 2:
        return Followed("other")
    if protocol in TAGS:
        return Followed("tags")
    found = {0x0800: _ipv4, 0x86DD: _ipv6}[protocol](frame, at) if protocol in (0x0800, 0x86DD) else Followed("other")
    # The stack does not deliver a datagram or a first fragment without the whole UDP header.
    return Followed("other") if found.kind in ("whole", "first") and len(frame) < found.udp + 8 else found


def _ipv4(frame: bytes, at: int) -> Followed:
    if len(frame) < at + 20 or frame[at + 9] != UDP:
        return Followed("other")
    header, (total, _, fragment) = (frame[at] & 15) * 4, struct.unpack_from("!HHH", frame, at + 2)
    if header < 20 or total < header:
        return Followed("other")
    kind: Kind = "rest" if fragment & 0x1FFF else "first" if fragment & 0x2000 else "whole"
    return Followed(kind, frame[at + 12 : at + 16], frame[at + 16 : at + 20], at + header, total - header)


def _ipv6(frame: bytes, at: int) -> Followed:
    if len(frame) < at + 40:
        return Followed("other")
    addresses = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    (payload, next_header), at = struct.unpack_from("!HB", frame, at + 4), at + 40
    # RFC 2675: the length is in the hop-by-hop header, or (accepted by the stack) missing.
    end = at + (2**32 - 1 if payload == 0 and next_header == HOP_BY_HOP else payload)
    kind: Kind = "whole"
    walked = 0
    while next_header != UDP:
        if next_header not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
            return Followed("other")
        if walked == 3 or len(frame) < at + 8:
            return Followed("chain", *addresses)
        length = 8
        if next_header == FRAGMENT:
            (offset_more,) = struct.unpack_from("!H", frame, at + 2)
            if offset_more >> 3:
                return Followed("rest", *addresses)
            if offset_more & 1:
                kind = "first"
        else:
            length = 8 * (frame[at + 1] + 1)
        if end < at + length:
            return Followed("chain", *addresses)
        next_header, at, walked = frame[at], at + length, walked + 1
    if walked and min(end, len(frame)) < at + 8:
        return Followed("chain", *addresses)
    return Followed(kind, *addresses, at, end - at)


def extension(next_header: int, *, words: int = 0, routing_type: int | None = None) -> bytes:
    """A header of 8 * (1 + *words*) bytes: options to skip (RFC 4727), or a route with no segments left."""
    room = 6 + 8 * words
    if routing_type is not None:
        return bytes((next_header, words, routing_type, 0)) + bytes(room - 2)
    options = b""
    while room - len(options) > 1:
        option = min(room - len(options), 257)
        options += bytes((0x1E, option - 2)) + bytes(option - 2)
    return bytes((next_header, words)) + options.ljust(room, b"\0")


def fragment(next_header: int, *, offset: int = 0, more: bool = False, number: int = 7) -> bytes:
    """An IPv6 fragment header; *offset* in bytes, a multiple of 8."""
    return struct.pack("!BBHI", next_header, 0, offset | more, number)


def with_checksum(datagram: bytes, source: str, destination: str) -> bytes:
    """Return a UDP datagram with the checksum that IPv6 asks for (RFC 8200 section 8.1)."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    pseudo = addresses + struct.pack("!II", len(datagram), UDP)
    whole = pseudo + datagram[:6] + b"\0\0" + datagram[8:]
    return datagram[:6] + struct.pack("!H", checksum(whole + bytes(len(whole) % 2)) or 0xFFFF) + datagram[8:]
