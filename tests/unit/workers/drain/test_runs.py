"""A run applies its plan through the requests seam alone, reports a finished drain once per order, and can stop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from velocity_edge.http.requests import HandshakeCompleted
from workers.drain.drain_plan import LINGER_S, Drain
from workers.drain.drain_run import DrainRun
from workers.drain.move_run import MoveRun
from workers.serve.connections import Connections


class Timer:
    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        self.when_s, self.callback, self.cancelled = when_s, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The part of an event loop that runs use, with a simulated clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now_s + delay_s, callback))
        return self.timers[-1]

    def run_until(self, end_s: float) -> None:
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when_s <= end_s]:
            timer = min(due, key=lambda timer: timer.when_s)
            self.timers.remove(timer)
            self.now_s = timer.when_s
            timer.callback()
        self.now_s = end_s


class Requests:
    """Connections without a carrier: what is done to them is recorded."""

    def __init__(self, *connections: int, renames: bool = True) -> None:
        self.open = dict.fromkeys(connections, 0)
        self.renames = renames
        self.acts: list[tuple[str, int]] = []

    def connections(self) -> list[tuple[int, int, int]]:
        return [(connection, 10**9, requests) for connection, requests in self.open.items()]

    def connections_on(self, config_ids: Collection[int]) -> list[int]:
        return list(self.open) if config_ids else []

    def goaway(self, connection: int, *, final: bool) -> None:
        self.acts.append(("final goaway" if final else "goaway", connection))

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        assert error_code == 0x100
        self.acts.append(("close", connection))
        del self.open[connection]

    def rename(self, connection: int) -> bool:
        self.acts.append(("rename", connection))
        return self.renames


def established(*connections: int) -> Connections:
    result = Connections()
    for connection in connections:
        result.on_handshake(
            HandshakeCompleted(connection, (b"\xc0\0\2\1", 9), "h3", 0, 0, 0, "example.test", False, False, 1)
        )
    return result


class Stage:
    """A drain of one connection, with a request on it, and a deadline after 20 s."""

    def __init__(self) -> None:
        self.loop, self.requests = Loop(), Requests(1)
        self.requests.open[1] = 1
        self.accepting: list[bool] = []
        self.losses = [0, 0]
        self.drained: list[tuple[int, int]] = []
        self.flushes = 0
        loop: Any = self.loop
        requests: Any = self.requests
        self.run = DrainRun(
            loop,
            requests,
            established(1),
            Drain(0.0, 20.0, 0.0),
            accept=self.accepting.append,
            count_losses=self._count_losses,
            drained=lambda lost, cut: self.drained.append((lost, cut)),
            flush_soon=self._flush,
        )

    def _count_losses(self, cut: int, lost: int) -> None:
        self.losses = [self.losses[0] + cut, self.losses[1] + lost]

    def _flush(self) -> None:
        self.flushes += 1


def test_a_drain_sends_goaways_and_closes_an_idle_connection() -> None:
    stage = Stage()
    assert stage.run.left().oldest[0].site == "example.test"
    stage.requests.open[1] = 0
    stage.loop.run_until(15.0)
    assert stage.requests.acts == [("goaway", 1), ("final goaway", 1), ("close", 1)]
    assert (stage.losses, stage.drained) == ([0, 0], [(0, 0)])
    assert stage.accepting[0]
    assert not stage.accepting[int(LINGER_S / 0.1) + 1]
    assert stage.flushes > 100


def test_a_drain_counts_what_its_deadline_cuts_and_reports_once_per_order() -> None:
    stage = Stage()
    stage.loop.run_until(25.0)
    assert (stage.losses, stage.drained) == ([1, 1], [(1, 1)])
    stage.run.renew(40.0, 0.0, discourage=False)
    stage.loop.run_until(30.0)
    assert stage.drained == [(1, 1)] * 2


def test_a_stopped_drain_accepts_connections_and_has_no_timer() -> None:
    stage = Stage()
    stage.loop.run_until(5.0)
    acts = list(stage.requests.acts)
    stage.run.stop()
    assert stage.accepting[-1]
    stage.loop.run_until(60.0)
    assert stage.requests.acts == acts


def move(requests: Requests, config_ids: Callable[[], Collection[int]]) -> tuple[Loop, MoveRun]:
    loop: Any = Loop()
    carrier: Any = requests
    run = MoveRun(loop, carrier, established(*requests.open), [1], config_ids, 0.0, flush_soon=lambda: None)
    return loop, run


def test_a_move_renames_and_ends_when_no_connection_has_old_ids() -> None:
    requests = Requests(1, 2)
    loop, run = move(requests, lambda: [1])
    assert requests.acts == [("rename", 1), ("rename", 2)]
    requests.open.clear()
    loop.run_until(1.0)
    assert not run.running


def test_a_move_drains_connections_that_the_engine_cannot_rename() -> None:
    requests = Requests(1, renames=False)
    loop, run = move(requests, lambda: [1])
    loop.run_until(20.0)
    assert requests.acts == [("rename", 1), ("goaway", 1), ("final goaway", 1), ("close", 1)]
    assert not run.running


def test_a_move_that_is_not_needed_any_more_ends() -> None:
    needed = [1]
    loop, run = move(Requests(1), lambda: needed)
    loop.run_until(2.0)
    assert run.running
    needed.clear()
    loop.run_until(3.0)
    assert not run.running
