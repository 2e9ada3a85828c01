"""Who asks, when there are proxies in front of the node: X-Forwarded-For and Forwarded (RFC 7239). Pure.

Both fields can be written by anybody. They are believed only if the peer is in a trusted network, and only up to the
last address that is not: what is left of it was written by the client. A proxy in front must replace or extend both
fields, or remove the one that it does not write; where both are there, x-forwarded-for counts.

Addresses are packed bytes, as engines deliver them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from velocity_edge.http.requests import Address, Headers

#: Elements that are looked at, from the right.
_MAX_HOPS: Final = 64

#: A forwarded-pair `for=`: token or quoted string.
_FOR: Final = re.compile(rb'(?:^|;)[ \t]*for=(?:"([^"\\]*)"|([^";, \t]*))[ \t]*(?:;|$)', re.IGNORECASE)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The networks of `server.trusted_proxies`."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """*networks*: such as 192.0.2.0/24."""
        self._networks: tuple[_Network, ...] = tuple(ipaddress.ip_network(text) for text in networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: bytes) -> bool:
        """Whether the fields that this peer sends are believed."""
        if not self._networks:
            return False
        found = ipaddress.ip_address(address)
        return any(found.version == network.version and found in network for network in self._networks)

    def client(self, peer: Address, headers: Headers) -> Address:
        """Return the client of a request; its port is 0 if it is not *peer*."""
        if not self.trusts(peer[0]):
            return peer
        found = peer
        for hop in _hops(headers):
            address = parse_node(hop)
            if address is None:
                break  # "unknown", an obfuscated name, or nonsense: who is behind cannot be told
            found = (address, 0)
            if not self.trusts(address):
                break
        return found


def _hops(headers: Headers) -> list[bytes]:
    """Return the addresses that the fields name, the nearest first."""
    plain = [value for name, value in headers if name == b"x-forwarded-for"]
    if plain:
        hops = [hop.strip(b" \t") for hop in b",".join(plain).split(b",")]
    else:
        elements = b",".join(value for name, value in headers if name == b"forwarded").split(b",")
        hops = []
        for element in elements:
            pair = _FOR.search(element)
            hops.append((pair[1] if pair[1] is not None else pair[2]) if pair else b"")
        if elements == [b""]:
            return []
    return hops[::-1][:_MAX_HOPS]


def parse_node(text: bytes) -> bytes | None:
    """Return the packed address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; else None."""
    try:
        node = text.decode("ascii")
    except UnicodeDecodeError:
        return None
    if node.startswith("["):
        node = node[1 : node.find("]")]
    elif node.count(":") == 1:
        node = node.partition(":")[0]
    try:
        address = ipaddress.ip_address(node)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.packed
    return address.packed


def address_text(address: bytes) -> str:
    """Return the address as text, without the interface of a link-local one (requests.py, `Address`)."""
    if len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80:
        address = address[:2] + bytes(6) + address[8:]
    return str(ipaddress.ip_address(address))


def forwarded_node(address: bytes) -> str:
    """Return a node of RFC 7239 section 6: IPv6 in brackets and quoted."""
    text = address_text(address)
    return f'"[{text}]"' if ":" in text else text


def forwarded_value(text: str) -> str:
    """Return a value of a forwarded-pair: a token, or a quoted string (RFC 7239 section 4)."""
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
