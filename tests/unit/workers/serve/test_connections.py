"""One client address cannot take the places of all others: above its bound its connections are closed at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from tests.support.fake_engine import FakeEngine
from velocity_edge.http.requests import ConnectionClosed, HandshakeCompleted
from workers.http import H3_EXCESSIVE_LOAD
from workers.measures import Measures
from workers.serve.connections import Connections
from workers.serve.exchanges import Exchanges

FIRST = HandshakeCompleted(0, (b"\xc0\0\2\1", 999), "h3", 0x11EC, 0x1301, 0x403, "", False, False, 1)


def handshake(connection: int, address: str = "192.0.2.1") -> HandshakeCompleted:
    return replace(FIRST, connection=connection, peer=(ip_address(address).packed, connection))


def closed(connection: int) -> ConnectionClosed:
    return ConnectionClosed(connection, 0x100, True, True, "", True)


def test_each_address_has_its_own_bound() -> None:
    connections = Connections(max_per_address=2)
    assert [connections.on_handshake(handshake(n)) for n in (1, 2, 3)] == [True, True, False]
    assert connections.on_handshake(handshake(4, "192.0.2.2"))
    assert [connections.on_handshake(handshake(n, f"2001:db8::{n}:1")) for n in (5, 6, 7)] == [True, True, False]
    assert connections.on_handshake(handshake(8, "2001:db8:0:100::1")), "another /56"


def test_connections_that_end_make_room_and_leave_nothing() -> None:
    connections = Connections(max_per_address=1)
    for connection in range(0, 100, 2):
        assert connections.on_handshake(handshake(connection))
        assert not connections.on_handshake(handshake(connection + 1))
        for ended in (connection, connection + 1, connection):
            connections.on_closed(closed(ended))
    assert connections._by_client == {}
    connections.on_closed(closed(7))


def test_without_a_bound_there_is_none() -> None:
    connections = Connections()
    assert all(connections.on_handshake(handshake(n)) for n in range(1000))


async def test_an_excess_connection_is_closed_and_counted() -> None:
    engine, measures = FakeEngine(), Measures()
    exchanges = Exchanges(
        engine,
        asyncio.get_running_loop().create_task,
        lambda: None,
        send_high_bytes=100,
        write_log=lambda _: None,
        measures=measures,
    )
    exchanges.connections.max_per_address = 1
    exchanges.handle([handshake(1), handshake(2)])
    assert engine.closed == {2: H3_EXCESSIVE_LOAD}
    assert measures.counter("velocity_connections_refused_total", ("address",)).value == 1
