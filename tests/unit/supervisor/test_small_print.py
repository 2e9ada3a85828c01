"""What is easily got wrong by one word: sums, boundaries, who counts. Each mistake beside it fails the play above it.

The plays are tests of their own; `test_it_is_noticed` runs them with one-line mistakes that no test noticed once.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from supervisor.chores import reloadable
from supervisor.node import drain_contract as contract
from supervisor.node import draining as drains
from supervisor.node import happenings, node, requests
from supervisor.node.commands import Command, Spawn, Tell
from supervisor.node.drain_contract import Contract, Event, Phase, Terms
from supervisor.node.lifecycle import WorkerState
from tests.support.mutants import mutate
from tests.unit.supervisor.node.test_node import Play
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo
from velocity_edge.tls import server as tls_server
from velocity_edge.tls.alerts import Alert
from velocity_edge.wire import messages as m


def serving(cores: int) -> Play:
    play = Play(cores)
    play(happenings.Started())
    for worker_id in range(1, cores + 1):
        play.ready(worker_id)
    return play


def beat(connections: int, half_open: int, told: int, running: int) -> m.Heartbeat:
    return m.Heartbeat(connections, half_open, 0, 0.1, 1024, {}, m.Left(told, running, []))


def told(commands: list[Command], worker_id: int) -> list[m.Order]:
    return [c.order for c in commands if isinstance(c, Tell) and c.worker_id == worker_id]


# --- what a restart lost


def a_restart_sums_what_every_worker_lost() -> None:
    play = serving(2)
    play(happenings.Restart())
    for newcomer, old, lost in ((3, 1, 2), (4, 2, 3)):
        play.ready(newcomer)
        play.says(old, m.Drained(lost))
        play(happenings.Exited(old, 0))
    assert play.node.rollout is not None
    assert (play.node.rollout.running, play.node.rollout.lost) == (False, 5)


def one_that_dies_while_it_hands_over_took_its_requests_with_it() -> None:
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    play.says(1, beat(2, 0, 0, 3))
    play(happenings.Exited(1, -9))
    assert play.node.rollout is not None
    assert play.node.rollout.lost == 3


def what_is_lost_after_a_restart_is_not_the_restarts() -> None:
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    play.says(1, m.Drained(1))
    play(happenings.Exited(1, 0))
    play(happenings.Quiesce(happenings.QuiesceMode.IMMEDIATE))
    play.says(2, m.Drained(7))
    assert play.node.rollout is not None
    assert play.node.rollout.lost == 1


# --- what a drain lost


def draining(cores: int = 1) -> Play:
    """A node whose workers have been told to leave."""
    play = serving(cores)
    play(happenings.DrainNode(Terms(settle_s=0.0, spread_s=0.0)))
    play(happenings.DisableFileWritten())
    play(happenings.Counted(0))
    assert play.node.contract is not None
    assert play.node.contract.phase is Phase.QUIESCE
    return play


def a_worker_that_is_killed_while_it_drains_took_its_requests_with_it() -> None:
    play = draining()
    play.says(1, beat(5, 1, 2, 3))
    play(happenings.Exited(1, -9))
    assert play.node.contract is not None
    assert play.node.contract.lost == 3


def what_a_worker_lost_by_its_deadline_stays_lost_when_it_dies_after_that() -> None:
    play = draining(2)
    play.says(1, beat(5, 0, 5, 3))
    play.says(1, m.Drained(3, 5))
    play.says(1, beat(0, 0, 0, 0))
    play(happenings.Exited(1, -9))
    assert play.node.contract is not None
    assert play.node.contract.lost == 3


def those_in_their_handshake_need_not_have_been_told() -> None:
    play = draining()
    play.says(1, beat(3, 1, 1, 0))
    assert play.node.contract is not None
    assert play.node.contract.phase is Phase.QUIESCE
    play.says(1, beat(3, 1, 2, 0))
    assert play.node.contract.phase is Phase.LIVE


def who_leaves_anyway_keeps_the_deadline_that_it_has() -> None:
    """A quiesce lasts a day: a worker that is replaced would stay for that long."""
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    assert play.node.workers[1].state is WorkerState.DRAINING
    commands = play(happenings.Quiesce(happenings.QuiesceMode.GRACEFUL, deadline_s=86_400.0))
    assert told(commands, 1) == []
    assert [type(order) for order in told(commands, 2)] == [m.Drain]


# --- cores


def a_core_that_is_not_wanted_any_more_gets_no_worker() -> None:
    play = serving(2)
    for _ in range(2):
        dead = next(v.worker_id for v in play.node.workers.values() if v.core == 1)
        play(happenings.Exited(dead, -11))
    assert play.node.cores[1].respawn_s is not None, "it waits"
    play(happenings.Scale(1))
    assert play.node.cores[1].respawn_s is None
    commands = play(happenings.Ticked(), after_s=60.0)
    assert not [c for c in commands if isinstance(c, Spawn) and c.core == 1]


# --- boundaries


def arrivals(settle_s: float, below_per_s: float = 1.0) -> Contract:
    made = Contract(Terms(settle_s=settle_s, settle_below_per_s=below_per_s, announce_max_s=1000.0), 0.0)
    made.happen(Event.WRITTEN, 0.0)
    return made


def quiet_for_exactly_as_long_as_asked_is_long_enough() -> None:
    drain = arrivals(10.0)
    for second in range(10):
        drain.count(float(second), 100, accepts=True)
        assert drain.phase is Phase.ARRIVALS
    drain.count(10.0, 100, accepts=True)
    assert drain.phase is Phase.QUIESCE


def exactly_as_many_as_the_limit_are_not_fewer() -> None:
    drain = arrivals(10.0, below_per_s=2.0)
    for second in range(60):
        drain.count(float(second), 100 + 2 * second, accepts=True)
    assert drain.phase is Phase.ARRIVALS
    assert drain.new_per_s == 2.0


# --- what a reload, or a second hello, cannot change


def keys_stay_in_their_file_until_a_restart() -> None:
    content = {"content": {"sites": [{"hostname": "*", "root": "/"}]}, "server": {"tls": {"self_signed": True}}}
    fixed: dict[str, Any] = {
        "server": {"listen": "127.0.0.1:1"},
        "dispatch": {"mode": "socket"},
        "tickets": {"storage": "/elsewhere.json"},
    }
    before = Config.from_json(content)
    reloadable.refuse_fixed(before, before)
    for section, change in fixed.items():
        after = Config.from_json({**content, section: {**content.get(section, {}), **change}})
        with pytest.raises(CannotDo, match=f"a new value of {section}.{next(iter(change))} needs a restart"):
            reloadable.refuse_fixed(before, after)


def the_second_hello_asks_for_the_same_protocols() -> None:
    class Hello:
        random, cipher_suites, versions, groups, signature_schemes = b"r", (1,), (2,), (3,), (4,)
        server_name, alpn = "a", (b"h3",)

    first: Any = Hello()
    tls_server.check_unchanged(first, Hello())  # type: ignore[arg-type]
    for name in ("random", "cipher_suites", "versions", "groups", "signature_schemes", "server_name", "alpn"):
        second: Any = Hello()
        setattr(second, name, "another")
        with pytest.raises(Alert, match=f"another {name}"):
            tls_server.check_unchanged(first, second)


PLAYS = [
    a_restart_sums_what_every_worker_lost,
    one_that_dies_while_it_hands_over_took_its_requests_with_it,
    what_is_lost_after_a_restart_is_not_the_restarts,
    a_worker_that_is_killed_while_it_drains_took_its_requests_with_it,
    what_a_worker_lost_by_its_deadline_stays_lost_when_it_dies_after_that,
    those_in_their_handshake_need_not_have_been_told,
    who_leaves_anyway_keeps_the_deadline_that_it_has,
    a_core_that_is_not_wanted_any_more_gets_no_worker,
    quiet_for_exactly_as_long_as_asked_is_long_enough,
    exactly_as_many_as_the_limit_are_not_fewer,
    keys_stay_in_their_file_until_a_restart,
    the_second_hello_asks_for_the_same_protocols,
]


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_as_it_is(play: Callable[[], None]) -> None:
    play()


MISTAKES: list[tuple[Callable[[], None], ModuleType, str, str, str]] = [
    (PLAYS[0], node, "self.rollout.lost += lost", "self.rollout.lost = lost", "Node._drained"),
    (PLAYS[1], node, "self.rollout.lost += worker.running_requests", "pass", "Node._exited"),
    (PLAYS[2], node, "if self.rollout and worker.worker_id in self.rollout.old:", "if self.rollout:", "Node._drained"),
    (PLAYS[3], drains, "else worker.running_requests", "else 0", "worker_gone"),
    (PLAYS[3], drains, "if planned or worker.drained else worker.running_requests", "", "worker_gone"),
    (PLAYS[4], drains, "if planned or worker.drained else", "if planned else", "worker_gone"),
    (PLAYS[5], drains, "beat.left.told < beat.connections - beat.half_open", "beat.left.told < beat.connections",
     "_everybody_told"),
    (PLAYS[6], requests, "if worker.serving and not worker.doomed:\n                self._drain(worker, self.draining",
     "if worker.serving:\n                self._drain(worker, self.draining", "Requests.drain_everybody"),
    (PLAYS[7], requests, "core.respawn_s = None\n        for core in self.cores[:count]",
     "pass\n        for core in self.cores[:count]", "Requests.scale"),
    (PLAYS[8], contract, "now_s - self.quiet_since_s >= self.terms.settle_s", "now_s - self.quiet_since_s > "
     "self.terms.settle_s", "Contract.count"),
    (PLAYS[9], contract, "self.new_per_s >= self.terms.settle_below_per_s", "self.new_per_s > "
     "self.terms.settle_below_per_s", "Contract._measure"),
    (PLAYS[10], reloadable, '    ("tickets.storage", lambda c: c.tickets.storage),\n', "", "_FIXED"),
    (PLAYS[11], tls_server, '"server_name", "alpn"):', '"server_name"):', "check_unchanged"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("play", "module", "before", "after", "name"), MISTAKES, ids=[f"{m[4]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_it_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    play: Callable[[], None],
    module: ModuleType,
    before: str,
    after: str,
    name: str,
) -> None:
    mutate(monkeypatch, module, before, after, name)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        play()
