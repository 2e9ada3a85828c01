"""A worker that hangs is killed in time; one that is busy is not."""

from __future__ import annotations

import pytest

from supervisor.node import commands, happenings
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages


def test_a_worker_without_heartbeats_and_progress_is_killed(serving: Play) -> None:
    assert serving(happenings.Ticked(), after_s=9.9) == []
    assert serving(happenings.Ticked(), after_s=0.1) == [commands.Kill(1)]


def said(play: Play, happening: happenings.Happening, after_s: float) -> tuple[list[str], list[commands.Command]]:
    play.now_s += after_s
    given = play.node.handle(happening, play.now_s)
    return [c.text for c in given if isinstance(c, commands.Say)], [c for c in given if not isinstance(c, commands.Say)]


def test_a_worker_that_makes_progress_is_busy_and_not_killed(serving: Play) -> None:
    assert serving(happenings.Ticked({1: 100}), after_s=5.0) == []
    texts, given = said(serving, happenings.Ticked({1: 101}), 5.0)
    assert texts == ["worker 1 is busy: heartbeat late by 10 s, but it makes progress"]
    assert given == []
    for n in range(20):
        assert said(serving, happenings.Ticked({1: 102 + n}), 5.0) == ([], [])  # said once
    assert serving.node.workers[1].busy
    texts, _ = said(serving, happenings.Reported(1, messages.Heartbeat(0, 0, 0, 0.0, 0)), 1.0)
    assert texts == ["worker 1 reports again, after 111 s"]
    assert not serving.node.workers[1].busy


@pytest.mark.parametrize("last_progress_s", [0.0, 5.0, 10.0, 100.0])
def test_a_worker_without_progress_is_killed_within_one_and_a_half_timeouts(
    serving: Play, last_progress_s: float
) -> None:
    began_s, timeout_s = serving.now_s, serving.node.settings.heartbeat_timeout_s
    given: list[commands.Command] = []
    while not given:
        due_s = serving.node.next_deadline_s()
        assert due_s is not None
        assert due_s - began_s <= last_progress_s + 1.5 * timeout_s
        given = serving(happenings.Ticked({1: int(min(due_s - began_s, last_progress_s) * 4)}), due_s - serving.now_s)
    assert given == [commands.Kill(1)]
    assert serving.now_s - began_s >= max(timeout_s, last_progress_s + timeout_s / 2)
    assert "no progress" in serving.node.workers[1].reason


def test_a_supervisor_that_was_late_looks_twice_before_it_kills(serving: Play) -> None:
    assert serving(happenings.Ticked({1: 5}), after_s=60.0) == []
    assert serving(happenings.Ticked({1: 5}), after_s=4.9) == []
    assert serving(happenings.Ticked({1: 5}), after_s=0.1) == [commands.Kill(1)]


def test_the_supervisor_is_behind_when_a_silent_worker_is_not_looked_at(serving: Play) -> None:
    """The watchdog is fed by this. A silent worker is looked at after 5 s: before that the supervisor is not behind."""
    assert serving.node.behind_s(serving.now_s + 4.9) == 0.0
    assert serving.node.behind_s(serving.now_s + 30.0) == 25.0
    serving(happenings.Ticked(), after_s=10.0)
    assert serving.node.behind_s(serving.now_s + 30.0) == 0.0
