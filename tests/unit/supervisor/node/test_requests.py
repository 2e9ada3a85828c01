"""Quiesce, resume and stop take effect at once or change nothing."""

from __future__ import annotations

import pytest

from supervisor.node import commands, happenings
from supervisor.node.lifecycle import NodeState, WorkerState
from tests.unit.supervisor.node.play import Play
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages


def test_a_discouraging_node_takes_new_connections(serving: Play) -> None:
    given = serving(happenings.Quiesce(happenings.QuiesceMode.DISCOURAGE))
    assert given == [commands.Tell(1, messages.Drain(86_400.0, 10.0, True))]
    assert serving.node.routes.accepting == (1,)
    assert not serving.node.ready


def test_an_announced_quiesce_takes_new_connections_until_its_time(serving: Play) -> None:
    assert serving(happenings.Quiesce(announce_s=5.0)) == []
    assert not serving.node.ready
    serving.says(1, messages.Heartbeat(1, 0, 0, 0.0, 0))
    assert serving(happenings.Ticked(), after_s=5.0) == [
        commands.Accept(()),
        commands.Tell(1, messages.Drain(86_400.0, 10.0)),
    ]


def test_resume_ends_a_quiesce_in_any_phase(serving: Play) -> None:
    serving(happenings.Quiesce())
    assert serving(happenings.Resume()) == [
        commands.Accept((1,)),
        commands.RemoveDisableFile(),
        commands.Tell(1, messages.Resume()),
    ]
    # A report from before the resume has no effect.
    assert serving.says(1, messages.Drained(0)) == []
    assert serving.node.state is NodeState.SERVING


def test_refused_requests_change_nothing() -> None:
    play = Play()
    play(happenings.Started())
    for request in (
        happenings.Quiesce(),
        happenings.Resume(),
        happenings.Restart(),
        happenings.Scale(2),
        happenings.Reload(1),
        happenings.UseEpochs((2,), 2),
    ):
        with pytest.raises(CannotDo, match=r"^cannot "):
            play(request)
    play.ready(1)
    play(happenings.Restart())
    with pytest.raises(CannotDo, match="a restart is under way, core 0"):
        play(happenings.Restart())


def test_stop_drains_and_a_fast_stop_does_not(serving: Play) -> None:
    assert serving(happenings.StopNode())[0] == commands.Accept(())
    assert serving.node.workers[1].state is WorkerState.DRAINING
    assert serving(happenings.StopNode(fast=True)) == [commands.Tell(1, messages.Stop())]
    assert serving(happenings.Exited(1, 0))[-1] == commands.Quit(0)
