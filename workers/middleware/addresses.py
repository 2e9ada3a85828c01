"""Client addresses as middleware compares them: packed, IPv4 as 4 bytes however it came, without an interface. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from velocity_edge.http.requests import Address

_MAPPED: Final = bytes(10) + b"\xff\xff"
_LINK_LOCAL: Final = b"\xfe\x80"


def packed(client: Address | None) -> bytes:
    """Return the address in 4 or 16 bytes; empty without one.

    An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 address. The engines keep the interface of a
    link-local address in its bytes 4 to 7 (velocity_edge/http/requests.py), which are zero in a network.
    """
    if client is None:
        return b""
    address = client[0]
    if len(address) == 16:
        if address.startswith(_MAPPED):
            return address[12:]
        if address[0] == _LINK_LOCAL[0] and address[1] & 0xC0 == _LINK_LOCAL[1]:
            return address[:4] + bytes(4) + address[8:]
    return address


def one_host(client: Address | None) -> bytes:
    """Return what one host is known by: its IPv4 address, or the /64 in which it has all IPv6 addresses it likes."""
    address = packed(client)
    return address if len(address) == 4 else address[:8]


class Networks:
    """A set of networks. A look-up costs one step for each length of a prefix, whatever their number."""

    def __init__(self, networks: Iterable[str]) -> None:
        """*networks*: as "192.0.2.0/24" or "2001:db8::/32"."""
        by_length: dict[tuple[int, int], set[int]] = {}
        for text in networks:
            network = ipaddress.ip_network(text)
            bits = network.max_prefixlen
            prefix = int(network.network_address) >> (bits - network.prefixlen)
            by_length.setdefault((bits, network.prefixlen), set()).add(prefix)
        self._tables = {
            n_bytes: [
                (8 * n_bytes - length, prefixes)
                for (bits, length), prefixes in by_length.items()
                if bits == 8 * n_bytes
            ]
            for n_bytes in (4, 16)
        }

    def __contains__(self, address: object) -> bool:
        """Whether *address* (packed) is in one of the networks; never for an unknown one."""
        assert isinstance(address, bytes)
        tables = self._tables.get(len(address))
        if not tables:
            return False
        number = int.from_bytes(address, "big")
        return any(number >> shift in prefixes for shift, prefixes in tables)
