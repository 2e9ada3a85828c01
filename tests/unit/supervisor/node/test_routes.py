"""Which workers get new connections, and what workers know of each other."""

from __future__ import annotations

from supervisor.node import commands, happenings
from supervisor.node.routes import desired_accepting, desired_roster
from supervisor.node.worker import Worker
from tests.unit.supervisor.node.play import Play
from velocity_edge.wire import messages


def test_without_ready_workers_packets_wait_where_they_went_before() -> None:
    assert desired_accepting({}, accepts=True, before=(7, 8), known={7: (0, 0)}) == (7,)
    assert desired_accepting({}, accepts=False, before=(7,), known={7: (0, 0)}) == ()


def test_a_new_worker_is_unborn_until_it_is_in_the_roster() -> None:
    play = Play(cores=2)
    play(happenings.Started())
    first, second = play.node.workers
    play.ready(first)
    assert play.node.workers[first].roster == messages.Roster({first: 0}, second)
    play.ready(second)
    assert play.node.workers[first].roster == messages.Roster({first: 0, second: 1}, play.node.ids.next_id)
    told = [
        c
        for c in play(happenings.Restart((0,)))
        if isinstance(c, commands.Tell) and isinstance(c.order, messages.Roster)
    ]
    assert told == [], "the third id is lent, and still unborn for workers that serve"
    newcomer = max(play.node.workers)
    assert play.node.workers[first].roster.unborn_from == newcomer


def test_unborn_from_is_the_oldest_unborn_id_also_when_ids_wrap_around() -> None:
    workers = {i: Worker(i, 0, 0, 0.0, None) for i in (0xFFFF, 1)}
    assert desired_roster(workers, 2).unborn_from == 0xFFFF
    assert desired_roster({}, 2).unborn_from == 2
