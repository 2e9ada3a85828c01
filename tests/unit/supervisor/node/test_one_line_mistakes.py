"""Sums, boundaries, which workers count: decisions that one wrong word changes, each tested with that mistake, too.

The plays are tests of their own (`test_play`); `test_mistake_fails_its_play` runs them with one-line mistakes that no
test noticed at some time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from supervisor.node import arrivals, draining, happenings, requests, rolling, staffing
from supervisor.node.arrivals import Arrivals
from supervisor.node.commands import Command, Spawn, Tell
from supervisor.node.drain_contract import Phase, Terms
from supervisor.node.lifecycle import WorkerState
from supervisor.node.table import IllegalEvent
from tests.support.mutants import mutate
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages


def serving(cores: int) -> Play:
    play = Play(cores)
    play(happenings.Started())
    for worker_id in range(1, cores + 1):
        play.ready(worker_id)
    return play


def beat(connections: int, half_open: int, told: int, running: int) -> messages.Heartbeat:
    return messages.Heartbeat(connections, half_open, 0, 0.1, 1024, {}, messages.Left(told, running, []))


def told(commands: list[Command], worker_id: int) -> list[messages.Order]:
    return [c.order for c in commands if isinstance(c, Tell) and c.worker_id == worker_id]


# --- losses of a restart


def a_restart_sums_what_all_workers_lost() -> None:
    play = serving(2)
    play(happenings.Restart())
    for newcomer, old, lost in ((3, 1, 2), (4, 2, 3)):
        play.ready(newcomer)
        play.says(old, messages.Drained(lost))
        play(happenings.Exited(old, 0))
    assert play.node.rollout is not None
    assert (play.node.rollout.running, play.node.rollout.lost) == (False, 5)


def requests_of_a_worker_that_dies_while_it_hands_over_are_lost() -> None:
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    play.says(1, beat(2, 0, 0, 3))
    play(happenings.Exited(1, -9))
    assert play.node.rollout is not None
    assert play.node.rollout.lost == 3


def losses_after_a_restart_do_not_count_for_it() -> None:
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    play.says(1, messages.Drained(1))
    play(happenings.Exited(1, 0))
    play(happenings.Quiesce(happenings.QuiesceMode.IMMEDIATE))
    play.says(2, messages.Drained(7))
    assert play.node.rollout is not None
    assert play.node.rollout.lost == 1


# --- losses of a drain


def draining_node(cores: int = 1) -> Play:
    """Return a node whose workers have been told to drain."""
    play = serving(cores)
    play(happenings.DrainNode(Terms(settle_s=0.0, spread_s=0.0)))
    play(happenings.DisableFileWritten())
    play(happenings.Counted(0))
    assert play.node.contract is not None
    assert play.node.contract.phase is Phase.QUIESCE
    return play


def requests_of_a_worker_that_is_killed_while_it_drains_are_lost() -> None:
    play = draining_node()
    play.says(1, beat(5, 1, 2, 3))
    play(happenings.Exited(1, -9))
    assert play.node.contract is not None
    assert play.node.contract.lost == 3


def losses_at_the_deadline_count_when_the_worker_dies_afterwards() -> None:
    play = draining_node(2)
    play.says(1, beat(5, 0, 5, 3))
    play.says(1, messages.Drained(3, 5))
    play.says(1, beat(0, 0, 0, 0))
    play(happenings.Exited(1, -9))
    assert play.node.contract is not None
    assert play.node.contract.lost == 3


def connections_in_their_handshake_need_no_goaway() -> None:
    play = draining_node()
    play.says(1, beat(3, 1, 1, 0))
    assert play.node.contract is not None
    assert play.node.contract.phase is Phase.QUIESCE
    play.says(1, beat(3, 1, 2, 0))
    assert play.node.contract.phase is Phase.LIVE


def a_leaving_worker_keeps_its_deadline_in_a_quiesce() -> None:
    """A quiesce lasts a day; a worker that is replaced would stay for that long."""
    play = serving(1)
    play(happenings.Restart())
    play.ready(2)
    assert play.node.workers[1].state is WorkerState.DRAINING
    commands = play(happenings.Quiesce(happenings.QuiesceMode.GRACEFUL, deadline_s=86_400.0))
    assert told(commands, 1) == []
    assert [type(order) for order in told(commands, 2)] == [messages.Drain]


# --- cores


def a_core_above_the_target_gets_no_worker() -> None:
    play = serving(2)
    for _ in range(2):
        dead = next(worker.worker_id for worker in play.node.workers.values() if worker.core == 1)
        play(happenings.Exited(dead, -11))
    assert play.node.cores[1].respawn_s is not None, "the back-off"
    play(happenings.Scale(1))
    assert play.node.cores[1].respawn_s is None
    commands = play(happenings.Ticked(), after_s=60.0)
    assert not [c for c in commands if isinstance(c, Spawn) and c.core == 1]


# --- boundaries


def quiet_for_exactly_the_settle_time_is_long_enough() -> None:
    terms, measured = Terms(settle_s=10.0), Arrivals()
    for second in range(10):
        assert measured.proof(terms, float(second), 100, accepts=True) == ""
    assert measured.proof(terms, 10.0, 100, accepts=True) != ""


def a_rate_of_exactly_the_limit_is_not_below_it() -> None:
    terms, measured = Terms(settle_s=10.0, settle_below_per_s=2.0), Arrivals()
    for second in range(60):
        assert measured.proof(terms, float(second), 100 + 2 * second, accepts=True) == ""
    assert measured.new_per_s == 2.0


def losses_of_an_earlier_quiesce_do_not_count_for_a_drain() -> None:
    play = serving(1)
    play(happenings.Quiesce(happenings.QuiesceMode.IMMEDIATE))
    play.says(1, messages.Drained(7, 2))
    play(happenings.DrainNode(Terms()))
    play(happenings.DisableFileWritten())
    play.says(1, beat(0, 0, 0, 0))
    play(happenings.Counted(0))
    assert play.node.contract is not None
    assert (play.node.contract.phase, play.node.contract.lost) == (Phase.DRAINED, 0)
    assert play.node.contract.proof == "the node accepts no new connections"


PLAYS = [
    a_restart_sums_what_all_workers_lost,
    requests_of_a_worker_that_dies_while_it_hands_over_are_lost,
    losses_after_a_restart_do_not_count_for_it,
    requests_of_a_worker_that_is_killed_while_it_drains_are_lost,
    losses_at_the_deadline_count_when_the_worker_dies_afterwards,
    connections_in_their_handshake_need_no_goaway,
    a_leaving_worker_keeps_its_deadline_in_a_quiesce,
    a_core_above_the_target_gets_no_worker,
    quiet_for_exactly_the_settle_time_is_long_enough,
    a_rate_of_exactly_the_limit_is_not_below_it,
    losses_of_an_earlier_quiesce_do_not_count_for_a_drain,
]


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_play(play: Callable[[], None]) -> None:
    play()


MISTAKES: list[tuple[Callable[[], None], ModuleType, str, str, str]] = [
    (PLAYS[0], rolling, "node.rollout.lost += lost", "node.rollout.lost = lost", "drained"),
    (PLAYS[1], rolling, "rollout.lost += worker.running_requests", "pass", "worker_gone"),
    (PLAYS[2], rolling, "if node.rollout and worker.worker_id in node.rollout.old:", "if node.rollout:", "drained"),
    (PLAYS[3], draining, "else worker.running_requests", "else 0", "worker_gone"),
    (PLAYS[3], draining, "if planned or worker.drained else worker.running_requests", "", "worker_gone"),
    (PLAYS[4], draining, "if planned or worker.drained else", "if planned else", "worker_gone"),
    (PLAYS[5], draining, "beat.left.told < beat.connections - beat.half_open", "beat.left.told < beat.connections",
     "_all_told"),
    (PLAYS[6], requests, "if worker.serving and not worker.doomed:\n            orders.drain(", "if worker.serving:\n"
     "            orders.drain(", "drain_all"),
    (PLAYS[7], staffing, "core.respawn_s = None\n    for core in node.cores[:count]",
     "pass\n    for core in node.cores[:count]", "scale"),
    (PLAYS[8], arrivals, "now_s - self.quiet_since_s >= terms.settle_s", "now_s - self.quiet_since_s > terms.settle_s",
     "Arrivals.proof"),
    (PLAYS[9], arrivals, "self.new_per_s >= terms.settle_below_per_s", "self.new_per_s > terms.settle_below_per_s",
     "Arrivals._measure"),
    (PLAYS[10], draining, "node.state is NodeState.QUIESCED and contract.can(Event.EMPTY)",
     "node.state is NodeState.QUIESCED", "go_on"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("play", "module", "before", "after", "name"), MISTAKES, ids=[f"{m[4]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistake_fails_its_play(
    monkeypatch: pytest.MonkeyPatch,
    play: Callable[[], None],
    module: ModuleType,
    before: str,
    after: str,
    name: str,
) -> None:
    mutate(monkeypatch, module, before, after, name)
    with pytest.raises((AssertionError, IllegalEvent, pytest.fail.Exception)):
        play()
