"""How a worker starts and crashes, step by step: what happens, and the commands that follow."""

from __future__ import annotations

from supervisor.node import commands, happenings
from tests.unit.supervisor.node.play import HELLO, Play
from velocity_edge.wire import messages


def test_a_worker_is_equipped_prepared_and_activated() -> None:
    play = Play()
    # New connections wait in its socket.
    assert play(happenings.Started()) == [commands.Lend(1, 0, 0), commands.Accept((1,)), commands.Spawn(1, 0, 0)]
    assert play.says(1, messages.Hello(1, **HELLO)) == [
        commands.Equip(1, 0, 1),
        commands.GiveKeys(1, (1,), 1),
        commands.Tell(1, messages.Roster({1: 0}, unborn_from=2)),
        commands.GiveConfig(1, 1),
    ]
    assert play.says(1, messages.Prepared(1)) == [commands.Tell(1, messages.Activate(1))]
    assert play.says(1, messages.Ready(1)) == []


def test_a_crashed_worker_is_replaced_in_its_slot_where_new_connections_wait(serving: Play) -> None:
    # Accept is not touched: id 1 still leads to slot 0, where the successor will read.
    assert serving(happenings.Exited(1, -11)) == [commands.Lend(2, 0, 0), commands.Spawn(2, 0, 0)]
    assert serving.ready(2) == [commands.Accept((2,))]
    # The dead id is forgotten when its connections have idled out.
    assert commands.Forget(1) in serving(happenings.Ticked(), after_s=serving.node.settings.quarantine_s)


def test_new_connections_go_to_other_ready_workers_after_a_crash() -> None:
    play = Play(2)
    play(happenings.Started())
    play.ready(1)
    play.ready(2)
    assert play(happenings.Exited(1, -11))[:2] == [commands.Lend(3, 0, 0), commands.Accept((2,))]


def test_a_worker_without_the_keys_is_killed(serving: Play) -> None:
    serving(happenings.UseEpochs((2, 1), 2))
    assert serving(happenings.Ticked(), after_s=5.0) == [commands.Kill(1)]
