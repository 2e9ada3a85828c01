"""How a node begins when no worker of an earlier supervisor lives."""

from __future__ import annotations

from dataclasses import replace

from supervisor.node import commands, happenings
from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.lifecycle import NodeState
from supervisor.node.worker import WorkerIds
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages

CHANGE = happenings.Quiesce(reason="CHG-1", announce_s=60.0, since_s=900.0)


def all_dead(quiesced: happenings.Quiesce | None = None) -> happenings.Started:
    """Return the start after worker 7 died in the second slot of core 0, and worker 8 while it drained in the first."""
    departed = {7: happenings.Departed(0, 1, 1040.0), 8: happenings.Departed(0, 0, 1040.0)}
    return happenings.Started(departed=departed, accepting=(7,), quiesced=quiesced)


def test_new_workers_use_the_slots_where_packets_wait_and_answer_for_dead_ids() -> None:
    play = Play()
    play.node.ids = WorkerIds(9)
    assert play(all_dead()) == [
        commands.Lend(9, 1, 0),
        commands.Lend(7, 1, 0),
        commands.Lend(8, 1, 0),
        # No worker is ready: new connections wait for the one that starts.
        commands.Accept((9,)),
        commands.Spawn(9, 1, 0),
    ]
    play.ready(9)
    assert play(happenings.Ticked(), after_s=100.0)[:2] == [commands.Forget(7), commands.Forget(8)]


def test_a_node_that_starts_quiesced_accepts_no_connections() -> None:
    play = Play()
    assert commands.Accept(()) in play(all_dead(CHANGE)), "new connections are not accepted any more"
    assert commands.Tell(9, messages.Activate(1)) not in play.ready(1)
    assert (play.node.state, play.node.ready) == (NodeState.QUIESCING, False)
    assert play.node.routes.accepting == ()
    play.says(1, messages.Drained(0))
    assert (play.node.state, play.node.quiesced) == (NodeState.QUIESCED, replace(CHANGE, announce_s=0.0))
    assert play(happenings.Resume())[0] == commands.Accept((1,))


def test_a_node_that_starts_quiesced_can_be_resumed_before_it_is_ready() -> None:
    play = Play()
    play(happenings.Started(quiesced=CHANGE))
    assert play(happenings.Resume()) == [commands.Accept((1,)), commands.RemoveDisableFile()]
    play.ready(1)
    assert play.node.state is NodeState.SERVING


def test_a_node_that_was_drained_starts_with_its_disable_file() -> None:
    drained = Contract(Terms(reason="CHG-1"), 900.0, Phase.DRAINED)
    play = Play()
    assert commands.WriteDisableFile("CHG-1") in play(happenings.Started(quiesced=CHANGE, contract=drained))
    play.ready(1)
    assert play.node.state is NodeState.QUIESCING
    assert commands.RemoveDisableFile() in play(happenings.Resume())


def test_a_drain_ends_when_all_workers_die_and_the_node_stays_quiesced() -> None:
    draining = Contract(Terms(reason="CHG-1"), 900.0, Phase.LIVE)
    play = Play()
    assert commands.WriteDisableFile("CHG-1") in play(happenings.Started(quiesced=CHANGE, contract=draining))
    assert (draining.phase, play.node.accepts) == (Phase.NODE_STOPPED, False)
