"""Connections keep their ids through every change of keys; an engine counts connections by the keys of their ids."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.support.engine_driver import StockClient, World
from velocity_edge.keys import rotation
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic.engine_keys import engine_keys

Make = Callable[..., World]


def rotate(world: World, table: EpochTable) -> EpochTable:
    """Have *world* use one epoch more."""
    number = rotation.next_number(table)
    table = rotation.switch(rotation.announce(table, number.to_bytes(32, "big"), 0.0, 1e6))
    world.engine.use_keys(engine_keys(table))
    world.hooks.admission.use_keys(table)
    return table


def configs_of(client: StockClient) -> set[int]:
    """The CID config ids of all server ids that a client has."""
    return {spare.cid[0] >> 5 for spare in (client.quic._peer_cid, *client.quic._peer_cid_available)}


def test_requests_go_on_through_six_rotations(world: Make) -> None:
    w = world()
    client, table = w.ready(), w.table
    for _ in range(6):
        table = rotate(w, table)
        assert client.fetch("/bytes/10").status == 200
    again = w.ready()
    assert configs_of(again) == {table.seal_with % 7}
    assert w.counters()["connections_opened"] == 2


def test_connections_are_counted_by_the_keys_of_their_ids(world: Make) -> None:
    w = world()
    first, table = w.ready(), w.table
    w.run(seconds=1)
    assert w.engine.connections_by_config() == {1: 1}
    assert len(w.engine.connections_on([1])) == 1
    assert w.engine.connections_on([0, 2, 3]) == []
    table = rotate(w, table)
    second = w.ready()
    w.run(seconds=1)
    assert w.engine.connections_by_config() == {1: 1, 2: 1}
    first.quic.close()
    first.flush()
    w.run(lambda: w.engine.connections_by_config() == {2: 1}, seconds=5)
    assert w.engine.connections_by_config() == {2: 1}
    second.quic.close()
    second.flush()
    w.run(seconds=10)
    assert w.engine.connections_by_config() == {}


def test_an_id_chosen_by_a_client_counts_for_no_epoch(world: Make) -> None:
    """Twenty bytes that look like an issued id count for no epoch."""
    w = world()
    client = StockClient(w, w.address())
    client.quic._peer_cid.cid = bytes([4 << 5 | 19]) + random.Random(1).randbytes(19)
    client.quic._original_destination_connection_id = client.quic._peer_cid.cid
    w.attach(client.address, client)
    client.start()
    w.run(lambda: client.quic._handshake_confirmed)
    w.run(seconds=1)
    assert w.engine.connections_by_config() == {1: 1}


def test_the_counts_hold_while_connections_open_and_close(world: Make) -> None:
    w, dice = world(), random.Random(7)
    table, clients = w.table, [w.ready() for _ in range(3)]
    for _ in range(60):
        match dice.randrange(5):
            case 0:
                clients.append(w.ready())
            case 1 if len(clients) > 1:
                clients.pop(dice.randrange(len(clients))).quic.close()
            case 2 if table.seal_with < 7:
                table = rotate(w, table)
            case 3:
                dice.choice(clients).quic.change_connection_id()
            case _:
                assert dice.choice(clients).fetch("/bytes/10").status == 200
        for client in clients:
            client.quic.send_ping(1)  # keeps the connection from the idle timeout
        w.run(seconds=3)
        # What a client can use, the engine counts; it may hold an id a little longer than the client.
        counted = w.engine.connections_by_config()
        for config in range(7):
            assert counted.get(config, 0) >= sum(config in configs_of(client) for client in clients)
            assert counted.get(config, 0) <= len(clients)
    for client in clients:
        client.quic.close()
    w.run(seconds=10)
    assert w.engine.connections_by_config() == {}


class TestThePortableEngine:
    """It moves its clients to ids of the new keys by itself (RFC 9000 section 5.1.2); ngtcp2 cannot."""

    @pytest.fixture
    def w(self) -> World:
        return World("portable")

    def test_an_active_client_gets_new_ids_and_retires_the_old_ones(self, w: World) -> None:
        client, table = w.ready(), w.table
        w.run(seconds=1)
        for number in (2, 3, 4):
            table = rotate(w, table)
            assert client.fetch("/bytes/10").status == 200
            w.run(seconds=1)
            assert configs_of(client) == {number}
            assert w.engine.connections_by_config() == {number: 1}
        w.close()

    def test_an_idle_client_gets_no_packet(self, w: World) -> None:
        client = w.ready()
        w.run(seconds=1)
        sent = len(w.sent)
        rotate(w, w.table)
        w.run(seconds=5)
        assert len(w.sent) == sent
        assert w.engine.connections_by_config() == {1: 1}
        # Unless it is asked for.
        [connection] = w.engine.connections_on([1])
        assert w.engine.rename(connection)
        w.run(seconds=1)
        assert configs_of(client) == {2}
        assert w.engine.connections_by_config() == {2: 1}

    def test_ids_change_despite_loss(self) -> None:
        w = World("portable", loss=0.2, reorder=0.3, duplicate=0.1, seed=5)
        client, table = w.ready(), w.table
        for number in range(2, 8):
            table = rotate(w, table)
            assert client.fetch("/bytes/20000", seconds=300).status == 200
            w.run(lambda n=number % 7: w.engine.connections_by_config() == {n: 1}, seconds=20)  # type: ignore[misc]
            assert w.engine.connections_by_config() == {number % 7: 1}
        w.close()

    def test_rotations_faster_than_the_round_trip(self, w: World) -> None:
        client, table = w.ready(), w.table
        w.run(seconds=1)
        for _ in range(5):
            table = rotate(w, table)
            client.request("GET", "/bytes/10")
            client.flush()
            w.run(seconds=0.012)
        assert client.fetch("/bytes/10").status == 200
        w.run(seconds=2)
        assert client.fetch("/bytes/10").status == 200
        w.run(seconds=1)
        assert configs_of(client) == {6}
        assert w.engine.connections_by_config() == {6: 1}

    def test_a_client_that_retires_no_ids_gets_a_bounded_number(self, w: World) -> None:
        client, table = w.ready(), w.table
        w.run(seconds=1)
        client.quic._retire_peer_cid = lambda connection_id: None
        for _ in range(6):
            table = rotate(w, table)
            client.request("GET", "/bytes/10")
            client.flush()
            w.run(seconds=1)
        assert len(w.engine._table.by_cid) <= 20  # type: ignore[attr-defined]
        assert 1 in w.engine.connections_by_config()
        w.close()
