"""A listener is opened by its transport; one that this version cannot open is refused and leaves no socket open."""

from __future__ import annotations

import os
import socket

import pytest

from supervisor.machine import sockets
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener

UDP = Listener("127.0.0.1", 0)


def test_a_udp_listener_has_one_datagram_socket_per_slot_and_keeps_its_transport() -> None:
    [bound], [group] = sockets.open_listeners([UDP], 3)
    one_more = sockets.open_one_more(bound, [bound])
    assert (bound.host, bound.transport) == ("127.0.0.1", "udp")
    for each in (*group, one_more):
        assert (each.type, each.getsockname()) == (socket.SOCK_DGRAM, ("127.0.0.1", bound.port))
        each.close()


def test_tcp_is_refused_and_no_socket_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    refused = r"^cannot listen on 127\.0\.0\.1:443/tcp: this version does not support TCP$"
    with pytest.raises(VelocityError, match=refused):
        sockets.open_listeners([UDP, Listener("127.0.0.1", 443, "tcp")], 2)
    with pytest.raises(VelocityError, match=refused):
        sockets.open_one_more(Listener("127.0.0.1", 443, "tcp"), [UDP])
    assert len(os.listdir("/proc/self/fd")) == before


def test_ipv4_over_tcp_does_not_take_ipv4_from_a_udp_wildcard() -> None:
    wildcard = Listener("::", 443)
    assert not sockets._only_v6(wildcard, [wildcard, Listener("0.0.0.0", 443, "tcp")])
    assert sockets._only_v6(wildcard, [wildcard, Listener("0.0.0.0", 443)])


def test_port_0_is_the_same_port_for_every_slot() -> None:
    listeners, [group] = sockets.open_listeners([UDP], 4)
    try:
        assert {s.getsockname()[1] for s in group} == {listeners[0].port}
        assert all(s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for s in group)
        assert not any(s.getblocking() or s.get_inheritable() for s in group)
    finally:
        for s in group:
            s.close()


def test_the_wildcard_serves_both_families_unless_ipv4_has_its_own_listener() -> None:
    for wanted, v6only in (([Listener("::", 0)], 0), ([Listener("::", 45671), Listener("127.0.0.1", 45671)], 1)):
        _, groups = sockets.open_listeners(wanted, 1)
        assert groups[0][0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only
        for group in groups:
            for s in group:
                s.close()


def test_an_address_that_the_machine_lacks_is_named() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        VelocityError, match=r"^cannot listen on 192.0.2.1:4433: this machine does not have that address"
    ):
        sockets.open_listeners([UDP, Listener("192.0.2.1", 4433)], 2)
    assert len(os.listdir("/proc/self/fd")) == before, "nothing stays open"


def test_drops_are_counted() -> None:
    listeners, [[s]] = sockets.open_listeners([UDP], 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(bytes(1000), ("127.0.0.1", listeners[0].port))
    assert 80 < sockets.drops(s) < 100
    s.close()
