"""Invariant: a client cannot choose its own address; a trusted proxy is believed, up to the first stranger."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.http.forwarded import TrustedProxies, address_text, forwarded_node, forwarded_value, parse_node

PROXY = (socket.inet_aton("10.0.0.1"), 4433)
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8"])


def client(*headers: tuple[bytes, bytes], peer: tuple[bytes, int] = PROXY) -> str:
    return address_text(TRUSTED.client(peer, headers)[0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"1.2.3.4, 203.0.113.9", "203.0.113.9"),
        (b"1.2.3.4, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        (b"10.2.2.2,10.1.1.1", "10.2.2.2"),
        (b"nonsense", "10.0.0.1"),
        (b"1.2.3.4, unknown", "10.0.0.1"),
        (b"1.2.3.4, unknown, 10.1.1.1", "10.1.1.1"),
        (b"", "10.0.0.1"),
        (b"203.0.113.9:5555", "203.0.113.9"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b"\xff\xfe", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_trusted(value: bytes, expected: str) -> None:
    assert client((b"x-forwarded-for", value)) == expected


def test_several_lines_are_one_list() -> None:
    assert client((b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-for", b"203.0.113.9")) == "203.0.113.9"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"for=203.0.113.9", "203.0.113.9"),
        (b"for=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
        (b'proto=http; For="[2001:db8::1]:4711"', "2001:db8::1"),
        (b'for=1.2.3.4, for="203.0.113.9"', "203.0.113.9"),
        (b"for=_hidden", "10.0.0.1"),
        (b"for=unknown", "10.0.0.1"),
        (b"proto=https", "10.0.0.1"),
        (b"xfor=1.2.3.4", "10.0.0.1"),
    ],
)
def test_the_field_of_rfc_7239_is_understood(value: bytes, expected: str) -> None:
    assert client((b"forwarded", value)) == expected


def test_a_stranger_is_itself_whatever_it_says() -> None:
    stranger = (socket.inet_aton("203.0.113.1"), 1)
    headers = ((b"x-forwarded-for", b"10.0.0.1"), (b"forwarded", b"for=10.0.0.1"))
    assert TRUSTED.client(stranger, headers) == stranger
    assert TrustedProxies().client(PROXY, headers) == PROXY


@given(st.binary(max_size=60), st.sampled_from([b"x-forwarded-for", b"forwarded"]))
def test_any_value_gives_an_address(value: bytes, name: bytes) -> None:
    found, _ = TRUSTED.client(PROXY, [(name, value)])
    assert len(found) in (4, 16)


@given(st.lists(st.ip_addresses(), max_size=8), st.ip_addresses())
def test_what_is_left_of_the_first_stranger_does_not_matter(
    forged: list[ipaddress.IPv4Address], real: ipaddress.IPv4Address
) -> None:
    if TRUSTED.trusts(parse_node(str(real).encode()) or b""):
        return
    value = ", ".join(map(str, [*forged, real])).encode()
    assert TRUSTED.client(PROXY, [(b"x-forwarded-for", value)])[0] == parse_node(str(real).encode())


def test_the_interface_of_a_link_local_address_is_not_told() -> None:
    address = ipaddress.ip_address("fe80::1").packed
    assert address_text(address[:4] + b"\0\0\0\2" + address[8:]) == "fe80::1"


def test_nodes_and_values_are_quoted_where_the_grammar_wants_it() -> None:
    assert forwarded_node(socket.inet_aton("192.0.2.1")) == "192.0.2.1"
    assert forwarded_node(ipaddress.ip_address("2001:db8::1").packed) == '"[2001:db8::1]"'
    assert forwarded_value("example.com") == "example.com"
    assert forwarded_value("example.com:443") == '"example.com:443"'
    assert forwarded_value('a"b\\') == '"a\\"b\\\\"'
