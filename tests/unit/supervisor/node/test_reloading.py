"""A revision is used when all workers have prepared it, or not at all."""

from __future__ import annotations

from supervisor.node import commands, happenings
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages


def test_a_refused_reload_changes_nothing(serving: Play) -> None:
    assert serving(happenings.Reload(2)) == [commands.GiveConfig(1, 2)]
    assert serving.says(1, messages.Refused(2, "cannot")) == []
    assert serving.node.revision == 1
    assert serving.node.last_reload is not None
    assert serving.node.last_reload.reason == "worker 1 refused: cannot"


def test_an_overdue_reload_changes_nothing(serving: Play) -> None:
    serving(happenings.Reload(2))
    serving.now_s += 9.5
    serving.says(1, messages.Heartbeat(0, 0, 0, 0.0, 0))
    assert serving(happenings.Ticked(), after_s=0.5) == []
    assert serving.node.revision == 1


def test_a_second_reload_replaces_the_first(serving: Play) -> None:
    serving(happenings.Reload(2))
    assert serving(happenings.Reload(3)) == [commands.GiveConfig(1, 3)]
    assert serving.says(1, messages.Prepared(2)) == []
    assert serving.says(1, messages.Prepared(3)) == [commands.Activated(3), commands.Tell(1, messages.Activate(3))]
