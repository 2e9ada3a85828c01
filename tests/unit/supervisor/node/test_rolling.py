"""A rolling restart hands a core over before its old worker drains."""

from __future__ import annotations

from supervisor.node import commands, happenings
from supervisor.node.lifecycle import WorkerState
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages


def test_a_rolling_restart_hands_over_before_it_drains(serving: Play) -> None:
    assert serving(happenings.Restart()) == [commands.Lend(2, 1, 0), commands.Spawn(2, 1, 0, patient=True)]
    drain = messages.Drain(serving.node.settings.drain_timeout_s, serving.node.settings.drain_spread_s)
    assert serving.ready(2)[:2] == [commands.Accept((2,)), commands.Tell(1, drain)]
    assert serving.says(1, messages.Drained(0)) == [commands.Tell(1, messages.Stop())]
    # Packets for the old worker go to the new one.
    assert serving(happenings.Exited(1, 0))[0] == commands.Lend(1, 1, 0)
    assert serving.node.rollout is not None
    assert not serving.node.rollout.running


def test_a_new_worker_that_fails_leaves_the_old_one_serving(serving: Play) -> None:
    serving(happenings.Restart())
    given = serving(happenings.Exited(2, 1))
    told = [c.order for c in given if isinstance(c, commands.Tell)]
    assert told == [messages.Roster({1: 0}, unborn_from=3)], "the failed worker is not awaited any more"
    assert not [c for c in given if isinstance(c, commands.Spawn)]
    assert serving.node.workers[1].state is WorkerState.READY
    assert serving.node.rollout is not None
    assert "did not become ready" in serving.node.rollout.reason
