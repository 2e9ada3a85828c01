"""Datagrams pass from socket to socket with their addresses and lengths, in the batches of both engines."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.engine_driver import ENGINES, NODE_ID, ROOT, Hooks, require_engine
from tests.support.waiting import poll
from velocity_edge.keys.table import first_table
from velocity_edge.quic import udp
from velocity_edge.quic.admission import AdmissionControl
from velocity_edge.quic.datagrams import EngineSettings, Train
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.open_engine import open_engine
from velocity_edge.quic.single_use import UsedTokens


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    require_engine(request.param)
    admission = AdmissionControl(first_table(ROOT, 0.0), NODE_ID, 7, Limits(), UsedTokens.private(0.0))
    settings = EngineSettings(worker_id=7, node_id=NODE_ID, limits=Limits())
    return open_engine(request.param, settings, Hooks(None, admission))[0]  # type: ignore[arg-type]


def bound(host: str, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
    sock.bind((host, 0))
    udp.prepare(sock)
    return sock


@pytest.fixture
def sockets() -> Iterator[Callable[..., socket.socket]]:
    made: list[socket.socket] = []

    def make(host: str, **options: Any) -> socket.socket:
        made.append(bound(host, **options))
        return made[-1]

    yield make
    for sock in made:
        sock.close()


def receive(batch: Any, sock: socket.socket, datagrams: int) -> list[Train]:
    """Take from *sock* until that many datagrams have come."""

    def arrived() -> bool:
        batch.receive(sock.fileno(), 5)
        return sum(-(-len(train.data) // train.segment_size) for train in batch) >= datagrams

    poll(arrived, "datagrams on loopback")
    return [Train(bytes(t.data), t.segment_size, t.peer, t.local, t.listener, t.tos, t.received_ns) for t in batch]


V4, V6 = socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")


@pytest.mark.parametrize(
    ("server", "dual", "client", "ip"),
    [
        ("127.0.0.1", False, "127.0.0.1", V4),
        ("0.0.0.0", False, "127.0.0.1", V4),
        ("::1", False, "::1", V6),
        ("::", True, "::1", V6),
        ("::", True, "127.0.0.1", V4),
    ],
)
def test_addresses_and_tos_come_through(
    engine: Any, sockets: Callable[..., socket.socket], server: str, dual: bool, client: str, ip: bytes
) -> None:
    """IPv4 on a dual-stack socket is IPv4."""
    receiving, sending = sockets(server, dual=dual) if ":" in server else sockets(server), sockets(client)
    if ":" in client:
        sending.setsockopt(socket.IPPROTO_IPV6, udp.IPV6_TCLASS, 0xB8)
    else:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
    port = receiving.getsockname()[1]
    sending.sendto(b"hello", (client, port))
    batch = engine.batch()
    [train] = receive(batch, receiving, 1)
    assert train == Train(b"hello", 5, (ip, sending.getsockname()[1]), (ip, port), 5, 0xB8)


@pytest.mark.parametrize(("host", "ip"), [("127.0.0.1", V4), ("::1", V6)])
def test_a_train_arrives_as_it_left(engine: Any, sockets: Callable[..., socket.socket], host: str, ip: bytes) -> None:
    sending, receiving = sockets(host), sockets(host)
    datagrams = [bytes([n]) * 1200 for n in range(40)] + [b"last" * 50]
    out, back = engine.batch(), engine.batch()
    peer = (ip, receiving.getsockname()[1])
    assert out.append(Train(b"".join(datagrams), 1200, peer, (ip, sending.getsockname()[1]), 0))
    assert out.transmit([sending.fileno()])
    assert len(out) == 0
    trains = receive(back, receiving, 41)
    cut = [t.data[i : i + t.segment_size] for t in trains for i in range(0, len(t.data), t.segment_size)]
    assert cut == datagrams
    count = engine.counters()
    assert count["datagrams_sent"] == 41
    assert count["send_bytes"] == count["receive_bytes"] == 48_200
    # GSO and GRO at work: one system call, not forty-one.
    assert count["send_calls"] == 1
    assert count["receive_calls"] < 41


@pytest.mark.parametrize(("wildcard", "dual", "asked"), [("0.0.0.0", False, "127.0.0.2"), ("::", True, "127.0.0.3")])
def test_an_answer_leaves_from_the_address_of_the_request(
    engine: Any, sockets: Callable[..., socket.socket], wildcard: str, dual: bool, asked: str
) -> None:
    server = sockets(wildcard, dual=dual) if dual else sockets(wildcard)
    client = sockets("127.0.0.1")
    client.sendto(b"ping", (asked, server.getsockname()[1]))
    batch = engine.batch()
    [train] = receive(batch, server, 1)
    assert train.local[0] == socket.inet_aton(asked)
    batch.clear()
    batch.append(Train(b"pong", 4, train.peer, train.local, 0))
    assert batch.transmit([server.fileno()])
    client.settimeout(5)
    assert client.recvfrom(100) == (b"pong", (asked, server.getsockname()[1]))


def test_each_train_leaves_by_the_socket_of_its_listener(engine: Any, sockets: Callable[..., socket.socket]) -> None:
    first, second, client = sockets("127.0.0.1"), sockets("127.0.0.1"), sockets("127.0.0.1")
    batch = engine.batch()
    peer = (V4, client.getsockname()[1])
    for listener, sock in enumerate((first, second)):
        batch.append(Train(b"%d" % listener, 1, peer, (V4, sock.getsockname()[1]), listener))
    assert batch.transmit([first.fileno(), second.fileno()])
    client.settimeout(5)
    got = {client.recvfrom(10) for _ in range(2)}
    assert got == {(b"0", first.getsockname()), (b"1", second.getsockname())}


def test_a_socket_that_would_block_keeps_the_rest(engine: Any, sockets: Callable[..., socket.socket]) -> None:
    """SO_SNDBUF bounds what is in flight on loopback; nothing is lost or sent twice."""
    sending, receiving = sockets("127.0.0.1"), sockets("127.0.0.1")
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    out, back = engine.batch(), engine.batch()
    peer = (V4, receiving.getsockname()[1])
    number = 0
    while number < 16:
        data = b"".join(bytes([number, n]) * 500 for n in range(10))
        if not out.append(Train(data, 1000, peer, (V4, sending.getsockname()[1]), 0)):
            break
        number += 1
    deadline = time.monotonic() + 10
    seen: list[bytes] = []
    while len(out):
        out.transmit([sending.fileno()])
        back.receive(receiving.fileno(), 0)
        for t in back:
            seen += [bytes(t.data[i : i + 2]) for i in range(0, len(t.data), t.segment_size)]
        back.clear()
        assert time.monotonic() < deadline
    poll(lambda: _drain(back, receiving, seen) >= 10 * number, "the rest")
    assert sorted(seen) == sorted(bytes([a, b]) for a in range(number) for b in range(10))


def _drain(batch: Any, sock: socket.socket, seen: list[bytes]) -> int:
    batch.receive(sock.fileno(), 0)
    for t in batch:
        seen += [bytes(t.data[i : i + 2]) for i in range(0, len(t.data), t.segment_size)]
    batch.clear()
    return len(seen)


def test_an_unreachable_destination_is_counted_and_others_are_served(
    engine: Any, sockets: Callable[..., socket.socket]
) -> None:
    sending, receiving = sockets("127.0.0.1"), sockets("127.0.0.1")
    batch = engine.batch()
    local = (V4, sending.getsockname()[1])
    # A socket bound to loopback has no route to the world.
    batch.append(Train(b"lost", 4, (bytes((192, 0, 2, 1)), 9), local, 0))
    batch.append(Train(b"here", 4, (V4, receiving.getsockname()[1]), local, 0))
    assert batch.transmit([sending.fileno()])
    receiving.settimeout(5)
    assert receiving.recv(10) == b"here"
    assert engine.counters()["send_errors"] == 1


def test_datagrams_that_the_kernel_dropped_are_counted(engine: Any, sockets: Callable[..., socket.socket]) -> None:
    receiving, sending = sockets("127.0.0.1"), sockets("127.0.0.1")
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def flood() -> None:
        for _ in range(100):
            sending.sendto(bytes(1200), receiving.getsockname())

    batch = engine.batch()
    # What was dropped before the first read does not count.
    flood()
    batch.receive(receiving.fileno(), 5)
    batch.clear()
    assert engine.counters()["socket_overflows"] == 0
    flood()
    batch.receive(receiving.fileno(), 5)
    batch.clear()
    # The count travels with the next datagram that is queued.
    sending.sendto(b"x", receiving.getsockname())
    receive(batch, receiving, 1)
    assert 50 < engine.counters()["socket_overflows"] <= 100


def test_a_batch_is_bounded(engine: Any) -> None:
    batch = engine.batch()
    added = 0
    while batch.append(Train(b"x", 1, (V4, 1), (V4, 2), 0)):
        added += 1
        assert added < 10_000
    assert added == len(batch) >= 8
    batch.clear()
    assert len(batch) == 0


def test_an_empty_datagram_is_a_datagram(engine: Any, sockets: Callable[..., socket.socket]) -> None:
    receiving, sending = sockets("127.0.0.1"), sockets("127.0.0.1")
    engine.use_keys(engine_keys(first_table(ROOT, 0.0)))
    batch = engine.batch()
    sending.sendto(b"", receiving.getsockname())
    poll(lambda: batch.receive(receiving.fileno(), 0), "a datagram")
    engine.receive(batch, time.monotonic_ns())
    assert engine.counters()["datagrams_received"] == 1
    assert engine.counters()["verdict_dropped_malformed"] == 1


def test_gso_is_disabled_for_a_destination_that_refuses_it() -> None:
    """After EIO or EINVAL for a train its datagrams are sent one by one, and later ones at once."""
    from velocity_edge.quic.portable.batch import PortableBatch
    from velocity_edge.wire.counters import COUNTERS

    count = dict.fromkeys(COUNTERS, 0)
    batch = PortableBatch(count)
    with closing(bound("127.0.0.1")) as sending, closing(bound("127.0.0.1")) as receiving:
        # Segments larger than the path's MTU are EINVAL for UDP_SEGMENT; singly they are fragmented or refused.
        sending.setsockopt(socket.IPPROTO_IP, udp.IP_MTU_DISCOVER, 0)
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        peer = (V4, receiving.getsockname()[1])
        # 66 segments: more than a kernel takes, and never made by gather().
        for expected in (1, 1):
            batch.append(Train(bytes(200 * 100), 100, peer, (V4, sending.getsockname()[1]), 0))
            assert batch.transmit([sending.fileno()])
            assert count["gso_fallbacks"] == expected
        assert count["datagrams_sent"] == 400
