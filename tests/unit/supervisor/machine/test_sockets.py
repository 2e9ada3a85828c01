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
