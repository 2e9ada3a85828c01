"""The loop receives and sends everything, no source monopolizes it, and it waits for a socket that would block."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from tests.support.fake_engine import FakeEngine, request
from tests.support.site import Clock, always
from velocity_edge.http.requests import Event
from velocity_edge.quic import handover
from velocity_edge.quic.datagrams import Train
from workers.http import plain
from workers.serve.endpoint import Endpoint
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision


class Stage:
    """An endpoint with two listeners and three slots; its own is slot 0."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        loop = asyncio.get_running_loop()
        self.exchanges = Exchanges(
            self.engine,
            loop.create_task,
            lambda: self.endpoint.flush_soon(),
            send_high_bytes=100,
            write_log=lambda lines: None,
            clock=Clock(),
        )
        self.exchanges.use(Revision(1, always(lambda request: plain(200))))
        self.udp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2)]
        for sock in self.udp:
            sock.bind(("127.0.0.1", 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.client.bind(("127.0.0.1", 0))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        self.receiving = [receiving for receiving, _ in pairs]
        self.sending = [sending for _, sending in pairs]
        self.endpoint = Endpoint(
            loop,
            self.engine,
            self.exchanges,
            sockets=[sock.fileno() for sock in self.udp],
            link=self.receiving[0],
            links=self.sending,
        )

    def __enter__(self) -> Stage:
        self.endpoint.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.endpoint.stop()
        for sock in (*self.udp, self.client, *self.receiving, *self.sending):
            sock.close()

    def send(self, data: bytes, listener: int = 0) -> None:
        self.client.sendto(data, self.udp[listener].getsockname())

    def train(self, data: bytes, listener: int = 0) -> Train:
        host, port = self.client.getsockname()
        return Train(data, len(data), (socket.inet_aton(host), port), (b"\x7f\0\0\1", 0), listener)

    def heard(self) -> list[bytes]:
        """The datagrams that the client received."""
        packets = []
        while True:
            try:
                packets.append(self.client.recv(65_535))
            except BlockingIOError:
                return packets


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.001)


async def test_datagrams_of_every_listener_become_events_and_answers() -> None:
    with Stage() as stage:

        def on_datagram(train: Train) -> list[Event]:
            stage.engine.outgoing.append(stage.train(b"answer to " + train.data, train.listener))
            return [request(int(train.data))]

        stage.engine.on_datagram = on_datagram
        for number in range(40):  # ten times what a batch holds
            stage.send(b"%d" % number, number % 2)
        heard: list[bytes] = []
        await until(lambda: heard.extend(stage.heard()) or len(heard) == 40)
        assert sorted(stage.engine.answers) == list(range(40))
        assert {train.listener for train in stage.engine.received} == {0, 1}


async def test_a_busy_socket_does_not_delay_the_other() -> None:
    with Stage() as stage:
        for number in range(100):
            stage.send(b"%d" % number, 0)
        stage.send(b"other", 1)
        await until(lambda: len(stage.engine.received) == 101)
        position = [train.data for train in stage.engine.received].index(b"other")
        assert position <= 2 * stage.engine.batches[0].capacity


async def test_strays_are_sent_to_the_slot_of_their_owner_and_dropped_ones_counted() -> None:
    with Stage() as stage:
        stage.endpoint.use_roster({10: 0, 11: 1, 12: 2})
        assert stage.engine.roster == frozenset((10, 11, 12))
        stage.receiving[1].setblocking(False)
        stage.engine.stray = [(11, b"for eleven"), (99, b"for nobody")]
        stage.send(b"x")
        await until(lambda: stage.engine.received)
        assert stage.receiving[1].recv(100) == b"for eleven"
        assert stage.endpoint.handover_full == 1
        stage.engine.stray = [(12, b"y" * 60_000)] * 20  # nobody reads there
        stage.send(b"x")
        await until(lambda: len(stage.engine.received) == 2)
        assert stage.endpoint.handover_full > 1


async def test_packets_from_the_link_are_processed_and_invalid_ones_ignored() -> None:
    with Stage() as stage:
        packet = handover.encode(b"strayed", stage.train(b"strayed", 1), 77)
        for data in (b"nonsense", b"", *[packet] * 20):
            stage.sending[0].send(data)
        await until(lambda: len(stage.engine.received) == 20)
        assert stage.engine.received[0] == replace(stage.train(b"strayed", 1), received_ns=77)


async def test_a_socket_that_would_block_stops_sending_until_it_is_writable() -> None:
    with Stage() as stage:
        outgoing = stage.engine.batches[1]
        outgoing.would_block = True
        stage.engine.outgoing = [stage.train(b"%d" % number) for number in range(6)]
        stage.endpoint.flush_soon()
        await until(lambda: len(outgoing) == 4)
        stage.engine.timer_ns = time.monotonic_ns()  # due at once: must not spin meanwhile
        stage.send(b"acknowledgement")
        await until(lambda: stage.engine.received and stage.engine.expired)
        assert len(stage.engine.outgoing) == 2
        assert not await stage.endpoint.drained_output(0.02)
        outgoing.would_block = False
        heard: list[bytes] = []
        await until(lambda: heard.extend(stage.heard()) or len(heard) == 6)
        assert heard == [b"%d" % number for number in range(6)]
        assert await stage.endpoint.drained_output(1.0)


async def test_a_large_backlog_of_packets_leaves_turns_for_other_callbacks() -> None:
    with Stage() as stage:
        stage.engine.outgoing = [stage.train(b"%d" % number) for number in range(200)]
        turns = 0
        stage.endpoint.flush_soon()
        while stage.engine.outgoing:
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 200 / (8 * stage.engine.batches[1].capacity)


async def test_the_timer_fires_when_due_also_after_it_was_moved_forward() -> None:
    with Stage() as stage:
        stage.engine.timer_ns = time.monotonic_ns() + 3_600_000_000_000
        stage.endpoint.flush_soon()
        await asyncio.sleep(0.01)
        assert stage.engine.expired == 0
        stage.engine.timer_ns = time.monotonic_ns() + 20_000_000
        stage.endpoint.flush_soon()
        await until(lambda: stage.engine.expired == 1)


async def test_after_stop_packets_stay_in_the_socket_for_a_successor() -> None:
    with Stage() as stage:
        stage.endpoint.stop()
        stage.send(b"for the next one")
        await asyncio.sleep(0.01)
        assert stage.engine.received == []
        assert stage.udp[0].recv(100) == b"for the next one"
        stage.endpoint.start()
