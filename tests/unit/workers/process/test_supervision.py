"""A worker without supervisor serves on; a drained one stops after `ALONE_S`, one that never served stops at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Channel, pair
from workers.process.supervision import ALONE_S, Supervision


class Clockwork(asyncio.SelectorEventLoop):
    """A loop with a simulated clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()

    def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 0.5)
            self.turn()


class Alone:
    """A worker's end, its supervisor's end, and the orders that it obeyed."""

    def __init__(self, loop: Clockwork, successor: Path) -> None:
        self.loop = loop
        self.orders: list[m.Order] = []
        self.revision, self.drained = 1, False
        self.supervision = Supervision(
            loop,
            lambda received: self.orders.append(received.message),
            lambda: m.Hello(7, 1, "portable", "test", revision=self.revision),
            list,
            lambda: self.drained,
            lambda: 0.0,
        )
        self.supervision.successor_path = str(successor)
        self.theirs, ours = pair()
        self.supervision.adopt(ours, first=True)

    def lose(self) -> None:
        self.theirs.close()
        self.loop.turn()
        self.loop.turn()


@pytest.fixture(name="loop")
def _loop() -> Iterator[Clockwork]:
    loop = Clockwork()
    yield loop
    loop.close()


@pytest.fixture(name="worker")
def _worker(loop: Clockwork, tmp_path: Path) -> Iterator[Alone]:
    worker = Alone(loop, tmp_path / "workers.sock")
    yield worker
    worker.supervision.close()


def test_a_serving_worker_continues_without_supervisor(worker: Alone) -> None:
    worker.lose()
    worker.loop.pass_time(100 * ALONE_S)
    assert worker.supervision.orphaned
    assert worker.orders == []


def test_a_worker_that_never_served_stops_at_once(worker: Alone) -> None:
    worker.revision = 0
    worker.lose()
    assert worker.orders == [m.Stop()]


def test_a_drained_worker_stops_when_no_supervisor_connects(worker: Alone) -> None:
    worker.drained = True
    worker.lose()
    worker.loop.pass_time(ALONE_S - 1.0)
    assert worker.orders == []
    worker.loop.pass_time(2.0)
    assert worker.orders == [m.Stop()]
    worker.loop.pass_time(ALONE_S)
    assert worker.orders == [m.Stop()], "once"


def test_a_draining_worker_stops_after_its_last_connection(worker: Alone) -> None:
    worker.lose()
    worker.loop.pass_time(2 * ALONE_S)
    assert worker.orders == []
    worker.drained = True
    worker.loop.pass_time(2.0)
    assert worker.orders == [m.Stop()]


@pytest.mark.parametrize(("speaks", "stops"), [(False, True), (True, False)])
def test_only_a_supervisor_that_sends_an_order_counts(worker: Alone, tmp_path: Path, speaks: bool, stops: bool) -> None:
    """One that accepts the connection and closes it again and again counts as none."""
    worker.drained = True
    worker.lose()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "workers.sock"))
        listening.listen()
        listening.setblocking(False)
        loop = worker.loop

        def answer() -> None:
            try:
                end, _ = listening.accept()
            except BlockingIOError:
                return
            if speaks:
                Channel(end, m.decode_report).send(m.Resume())
                loop.turn()
            end.close()

        passed_s = 0.0
        while passed_s < 2 * ALONE_S and m.Stop() not in worker.orders:
            loop.pass_time(0.5)
            answer()
            passed_s += 0.5
    assert (m.Stop() in worker.orders) is stops
