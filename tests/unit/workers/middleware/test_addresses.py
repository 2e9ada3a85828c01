"""Networks contain what the standard library says, and one host has one name however its address came."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.middleware.addresses import Networks, one_host, packed

addresses = st.ip_addresses()
networks = st.builds(
    lambda address, bits: ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False),
    addresses,
    st.integers(0, 128),
)


@settings(deadline=None)
@given(st.lists(networks, max_size=6), addresses, st.integers(0, 5))
def test_the_set_contains_what_one_of_its_networks_contains(
    many: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    nth: int,
) -> None:
    if many:
        network = many[nth % len(many)]
        inside = network.network_address + int(address) % network.num_addresses
        assert inside.packed in Networks(map(str, many))
    assert (address.packed in Networks(map(str, many))) == any(address in network for network in many)


def test_an_unknown_address_is_in_no_network() -> None:
    assert packed(None) not in Networks(["0.0.0.0/0", "::/0"])


def test_addresses_of_one_host_are_one() -> None:
    v4, mapped = ipaddress.ip_address("192.0.2.1").packed, ipaddress.ip_address("::ffff:192.0.2.1").packed
    assert packed((v4, 1)) == packed((mapped, 2)) == one_host((mapped, 3)) == v4
    first, second, other = (ipaddress.ip_address(a).packed for a in ("2001:db8::1", "2001:db8::f:1", "2001:db8:0:1::1"))
    assert one_host((first, 1)) == one_host((second, 1)) != one_host((other, 1))
    with_interface = ipaddress.ip_address("fe80::1").packed[:4] + b"\0\0\0\x07" + bytes(7) + b"\1"
    assert packed((with_interface, 1)) in Networks(["fe80::/64"])
