"""However a connection ends, no state of it stays, and late packets are answered less and less often or not at all."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.engine_driver import World
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]


def test_an_idle_connection_ends_without_a_packet(world: Make) -> None:
    w = world(limits=Limits(idle_timeout_s=5.0))
    client = w.ready()
    client.fetch("/bytes/10")
    w.run(seconds=1)
    client.paused = True
    before = len(w.sent)
    w.run(lambda: bool(w.app.closed), seconds=30)
    [closed] = w.app.closed
    assert (closed.error_code, closed.application, closed.by_peer) == (0, False, False)
    assert "idle" in closed.reason.lower()
    assert len(w.sent) == before
    assert w.engine.connections() == []
    assert w.counters()["connections_closed"] == 1


def test_connection_close_is_repeated_less_and_less_often_and_then_forgotten(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/10")
    client.paused = True
    packets = _late_packets(client, w, 40)
    w.engine.close(w.app.handshakes[0].connection, 0x100)
    w.run(seconds=0.02)
    begun = len(w.sent)
    for packet in packets[:32]:
        w.inject(client.address, packet)
    answered = len(w.sent) - begun
    assert 1 <= answered <= 8
    assert all(len(train.data) <= 1252 for train in w.sent[begun:])
    w.run(seconds=10)
    assert w.engine.connections() == []
    resets = w.counters()["verdict_reset"]
    w.inject(client.address, packets[33])
    assert w.counters()["verdict_reset"] == resets + 1


def test_no_packet_is_answered_after_the_peer_closed(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/10")
    packets = _late_packets(client, w, 5)
    client.close()
    w.run(lambda: bool(w.app.closed), seconds=5)
    begun = len(w.sent)
    for packet in packets:
        w.inject(client.address, packet)
    assert len(w.sent) == begun
    assert w.counters()["verdict_reset"] == 0


def test_a_close_during_the_handshake_is_a_failed_handshake(world: Make) -> None:
    w = world()
    client = w.connect()
    w.run(seconds=0.011)
    client.close()
    w.run(seconds=5)
    assert w.counters()["handshakes_failed"] == 1
    assert w.half_open() == 0
    assert w.app.closed[0].handshake_completed is False


def test_a_handshake_that_raises_closes_its_connection_and_no_other(world: Make, caplog: object) -> None:
    w = world()
    good = w.ready()

    class Broken:
        done = False
        alpn = server_name = ""
        group = cipher_suite = signature_scheme = 0
        resumed = early_data_accepted = False

        def feed(self, level: int, message: bytes) -> int:
            raise RuntimeError("a defect")

    w.hooks.handshake_with = lambda transport: Broken()
    bad = w.connect()
    w.run(lambda: bad.terminated is not None, seconds=10)
    assert bad.terminated.error_code == 0x01
    assert w.counters()["upcall_errors"] == 1
    assert good.fetch("/bytes/10").status == 200


def test_upcalls_that_raise_are_counted_and_serving_continues(world: Make) -> None:
    w = world()

    def raise_(*anything: object) -> object:
        raise RuntimeError("a defect")

    w.hooks.admit_with = raise_  # type: ignore[assignment]
    w.connect()
    w.run(seconds=0.5)
    assert w.verdicts().keys() == {"dropped_internal"}
    w.hooks.admit_with = None
    w.hooks.handshake_with = raise_  # type: ignore[assignment]
    w.connect()
    w.run(seconds=0.5)
    w.hooks.handshake_with = None
    w.hooks.address_token = raise_  # type: ignore[method-assign, assignment]
    client = w.connect()
    w.run(lambda: client.terminated is not None, seconds=5)
    assert client.terminated.error_code == 0x01
    assert client.tokens == []
    assert w.counters()["upcall_errors"] >= 3
    del w.hooks.address_token
    assert w.ready().fetch("/bytes/10").status == 200


def test_the_calendar_is_empty_after_all_connections_ended(world: Make) -> None:
    w = world(limits=Limits(idle_timeout_s=3.0))
    for _ in range(5):
        w.ready().fetch("/bytes/10")
    for client in w._clients.values():
        client.paused = True
    w.run(seconds=60)
    assert w.engine.connections() == []
    assert w.engine.next_timer_ns() is None


def _late_packets(client: object, w: World, number: int) -> list[bytes]:
    """Packets that the client would have sent: new, valid, and never delivered."""
    quic = client.quic  # type: ignore[attr-defined]
    packets = []
    for n in range(number):
        # Long enough that it could be answered with a reset.
        quic.send_ping(n)
        quic.send_stream_data(2, bytes(50))
        packets += [datagram for datagram, _ in quic.datagrams_to_send(w.now_ns / 1e9 + n)]
    assert len(packets) >= number
    return packets
