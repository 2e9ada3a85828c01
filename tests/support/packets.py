"""QUIC datagrams and the frames around them, as bytes. Only the parts that steering reads are real."""

from __future__ import annotations

import ipaddress
import os
import struct

V1, V2 = 1, 0x6B3343CF
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)


def short(cid: bytes, length: int = 60) -> bytes:
    return (b"\x40" + cid).ljust(length, b"\x5a")


def long(
    type_: int,
    dcid: bytes,
    *,
    scid: bytes = b"clientid",
    token: bytes = b"",
    version: int = V1,
    length: int = 1200,
) -> bytes:
    """A long header packet, padded to *length*. *type_* is version 1's number; version 2 counts one further."""
    bits = (type_ + 1) & 3 if version == V2 else type_
    head = struct.pack("!BIB", 0xC0 | bits << 4, version, len(dcid)) + dcid + bytes([len(scid)]) + scid
    if type_ == INITIAL:
        head += struct.pack("!H", 0x4000 | len(token)) if len(token) > 63 else bytes([len(token)])
        head += token
    return head.ljust(length, b"\x5a")


def random_dcid(length: int = 8) -> bytes:
    """An id as a client chooses it. It never decodes: its first octet encodes another length."""
    return b"\x00" + os.urandom(length - 1)


# --- frames -----------------------------------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over a header with a right checksum."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(payload: bytes, *, source: int = 40000, destination: int = 443, length: int | None = None) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload) if length is None else length, 0) + payload


def ipv4(
    payload: bytes,
    *,
    source: str | bytes = "192.0.2.1",
    destination: str | bytes = "198.51.100.1",
    protocol: int = 17,
    fragment: int = 0x4000,
    options: bytes = b"",
    tos: int = 0,
    length: int | None = None,
) -> bytes:
    ihl = 5 + len(options) // 4
    total = ihl * 4 + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH", 0x40 | ihl, tos, total, 1, fragment, 64, protocol, 0)
    head += _packed(source) + _packed(destination) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(
    payload: bytes,
    *,
    source: str | bytes = "2001:db8::1",
    destination: str | bytes = "2001:db8:1::1",
    next_header: int = 17,
    traffic_class: int = 0,
    length: int | None = None,
) -> bytes:
    first = 6 << 28 | traffic_class << 20
    head = struct.pack("!IHBB", first, len(payload) if length is None else length, next_header, 64)
    return head + _packed(source) + _packed(destination) + payload


def ethernet(payload: bytes, *, protocol: int | None = None, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """*tags*: (0x8100 or 0x88a8, vlan id), outermost first. The protocol is guessed from the IP version."""
    if protocol is None:
        protocol = 0x86DD if payload[0] >> 4 == 6 else 0x0800
    head = bytes.fromhex("020000000002 020000000001")
    for ethertype, vlan in tags:
        head += struct.pack("!HH", ethertype, vlan)
    return head + struct.pack("!H", protocol) + payload


def _packed(address: str | bytes) -> bytes:
    return address if isinstance(address, bytes) else ipaddress.ip_address(address).packed
