"""The decisions one by one, as short plays: what happens, and the commands that follow (crowds: tests/simulation)."""

from dataclasses import replace

import pytest

from supervisor.node import commands, happenings
from supervisor.node.core import MAX_DELAY_S, STABLE_S, Backoff, keep_idle_slots
from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.lifecycle import NodeState, WorkerState
from supervisor.node.node import Node
from supervisor.node.routes import desired_accepting, desired_roster
from supervisor.node.state import Settings
from supervisor.node.worker import Worker, WorkerIds, describe_exit
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages as m

HELLO = {"pid": 4242, "engine": "portable", "engine_reason": "test"}


class Play:
    def __init__(self, cores: int = 1) -> None:
        self.node = Node(Settings(cores), target=cores, epochs=(1,), seal_with=1)
        self.now_s = 1000.0

    def __call__(self, happening: happenings.Happening, after_s: float = 0.0) -> list[commands.Command]:
        self.now_s += after_s
        return [c for c in self.node.handle(happening, self.now_s) if not isinstance(c, commands.Say)]

    def says(self, worker_id: int, report: m.Report) -> list[commands.Command]:
        return self(happenings.Reported(worker_id, report))

    def ready(self, worker_id: int) -> list[commands.Command]:
        self.says(worker_id, m.Hello(worker_id, **HELLO))
        self.says(worker_id, m.Prepared(self.node.revision))
        return self.says(worker_id, m.Ready(self.node.revision))


@pytest.fixture
def serving() -> Play:
    play = Play()
    play(happenings.Started())
    play.ready(1)
    assert play.node.state is NodeState.SERVING
    return play


def test_a_worker_comes_to_life() -> None:
    play = Play()
    # New connections wait in its socket.
    assert play(happenings.Started()) == [commands.Lend(1, 0, 0), commands.Accept((1,)), commands.Spawn(1, 0, 0)]
    assert play.says(1, m.Hello(1, **HELLO)) == [
        commands.Equip(1, 0, 1),
        commands.GiveKeys(1, (1,), 1),
        commands.Tell(1, m.Roster({1: 0}, unborn_from=2)),
        commands.GiveConfig(1, 1),
    ]
    assert play.says(1, m.Prepared(1)) == [commands.Tell(1, m.Activate(1))]
    assert play.says(1, m.Ready(1)) == []


def test_a_crash_is_answered_in_the_same_slot_and_new_connections_wait_there(serving: Play) -> None:
    # Accept is not touched: id 1 still leads to slot 0, where the successor will read.
    assert serving(happenings.Exited(1, -11)) == [commands.Lend(2, 0, 0), commands.Spawn(2, 0, 0)]
    assert serving.ready(2) == [commands.Accept((2,))]
    # The dead id is forgotten when its connections have idled out.
    assert commands.Forget(1) in serving(happenings.Ticked(), after_s=serving.node.settings.quarantine_s)


def test_with_others_ready_new_connections_go_to_them() -> None:
    play = Play(2)
    play(happenings.Started())
    play.ready(1)
    play.ready(2)
    assert play(happenings.Exited(1, -11))[:2] == [commands.Lend(3, 0, 0), commands.Accept((2,))]


def test_a_rolling_restart_hands_over_before_it_drains(serving: Play) -> None:
    assert serving(happenings.Restart()) == [commands.Lend(2, 1, 0), commands.Spawn(2, 1, 0, patient=True)]
    drain = m.Drain(serving.node.settings.drain_timeout_s, serving.node.settings.drain_spread_s)
    assert serving.ready(2)[:2] == [commands.Accept((2,)), commands.Tell(1, drain)]
    assert serving.says(1, m.Drained(0)) == [commands.Tell(1, m.Stop())]
    # What still comes for the old one goes to the new one.
    assert serving(happenings.Exited(1, 0))[0] == commands.Lend(1, 1, 0)
    assert serving.node.rollout is not None
    assert not serving.node.rollout.running


def test_a_newcomer_that_fails_leaves_the_old_one_alone(serving: Play) -> None:
    serving(happenings.Restart())
    given = serving(happenings.Exited(2, 1))
    told = [c.order for c in given if isinstance(c, commands.Tell)]
    assert told == [m.Roster({1: 0}, unborn_from=3)], "that id will not come any more"
    assert not [c for c in given if isinstance(c, commands.Spawn)]
    assert serving.node.workers[1].state is WorkerState.READY
    assert serving.node.rollout is not None
    assert "did not become ready" in serving.node.rollout.reason


def test_a_refused_reload_changes_nothing(serving: Play) -> None:
    assert serving(happenings.Reload(2)) == [commands.GiveConfig(1, 2)]
    assert serving.says(1, m.Refused(2, "cannot")) == []
    assert serving.node.revision == 1
    assert serving.node.last_reload is not None
    assert serving.node.last_reload.reason == "worker 1 refused: cannot"


def test_an_overdue_reload_changes_nothing(serving: Play) -> None:
    serving(happenings.Reload(2))
    serving.now_s += 9.5
    serving.says(1, m.Heartbeat(0, 0, 0, 0.0, 0))
    assert serving(happenings.Ticked(), after_s=0.5) == []
    assert serving.node.revision == 1


def test_a_second_reload_takes_the_place_of_the_first(serving: Play) -> None:
    serving(happenings.Reload(2))
    assert serving(happenings.Reload(3)) == [commands.GiveConfig(1, 3)]
    assert serving.says(1, m.Prepared(2)) == []
    assert serving.says(1, m.Prepared(3)) == [commands.Activated(3), commands.Tell(1, m.Activate(3))]


def test_keys_are_accepted_everywhere_before_anybody_seals() -> None:
    play = Play(2)
    play(happenings.Started())
    play.ready(1)
    play.ready(2)
    assert play(happenings.UseEpochs((2, 1), 2)) == [
        commands.UseCidKeys((2, 1)),
        commands.GiveKeys(1, (2, 1), 1),
        commands.GiveKeys(2, (2, 1), 1),
    ]
    assert play.says(1, m.KeysInUse([2, 1], 1)) == []
    assert play.says(2, m.KeysInUse([2, 1], 1)) == [commands.GiveKeys(1, (2, 1), 2), commands.GiveKeys(2, (2, 1), 2)]


class TestOldEpochs:
    """An epoch's connection IDs decode until it is certain that nobody holds one."""

    @pytest.fixture
    def rotated(self, serving: Play) -> Play:
        """Epoch 2 seals, worker 1 has acknowledged it, epoch 1 has been over for long."""
        serving(happenings.UseEpochs((2, 1), 2))
        serving.says(1, m.KeysInUse([2, 1], 1, []))
        for _ in range(6):
            self.beat(serving, None, after_s=9.0)
        assert serving.node.cid_epochs == (2, 1)
        return serving

    def beat(
        self, play: Play, counts: dict[int, int] | None, worker_id: int = 1, after_s: float = 0
    ) -> list[commands.Command]:
        play.now_s += after_s
        return play.says(worker_id, m.Heartbeat(0, 0, 0, 0.0, 0, counts))

    def test_it_leaves_when_everybody_says_so(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        assert self.beat(rotated, {1: 1, 2: 5}) == []
        assert self.beat(rotated, {2: 5}) == [commands.UseCidKeys((2,)), commands.GiveKeys(1, (2, 1), 2)]
        assert rotated.node.cid_epochs == (2,)

    def test_a_worker_that_may_still_seal_with_it_is_not_believed(self, rotated: Play) -> None:
        assert self.beat(rotated, {2: 5}) == []
        # This count was made before it took over the new epoch.
        assert rotated.says(1, m.KeysInUse([2, 1], 2, [])) == []
        assert self.beat(rotated, {2: 5}) != []

    def test_a_worker_that_does_not_count_keeps_it(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2))
        assert self.beat(rotated, None) == []

    def test_the_ids_of_a_dead_worker_keep_it(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        rotated(happenings.Exited(1, -9))
        rotated.ready(2)
        rotated.says(2, m.KeysInUse([2, 1], 2, []))
        assert self.beat(rotated, {}, 2) == []
        for _ in range(4):
            self.beat(rotated, {}, 2, after_s=9.0)
        assert rotated.node.cid_epochs == (2, 1)
        rotated(happenings.Ticked(), after_s=9.0)
        assert rotated.node.cid_epochs == (2,)

    def test_a_worker_that_is_being_killed_keeps_it(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        rotated.node.workers[1].by_config = {}
        assert rotated(happenings.Broke(1, "junk")) == [commands.Kill(1)]

    def test_it_stays_for_late_packets_after_the_switch(self, serving: Play) -> None:
        serving(happenings.UseEpochs((2, 1), 2))
        serving.says(1, m.KeysInUse([2, 1], 1, []))
        serving.says(1, m.KeysInUse([2, 1], 2, []))
        for _ in range(4):
            assert self.beat(serving, {}, after_s=9.0) == []
        assert self.beat(serving, {}, after_s=4.0)[0] == commands.UseCidKeys((2,))

    def test_a_cold_start_answers_the_clients_of_before(self) -> None:
        play = Play()
        play.node = Node(Settings(1), target=1, epochs=(2, 1), seal_with=2, cid_epochs=(2, 1))
        play(happenings.Started())
        play.ready(1)
        play.says(1, m.KeysInUse([2, 1], 2, []))
        for _ in range(4):
            assert self.beat(play, {}, after_s=9.0) == []
        assert self.beat(play, {}, after_s=4.0)[0] == commands.UseCidKeys((2,))

    def test_a_rotation_that_an_earlier_supervisor_began_keeps_its_epoch(self) -> None:
        play = Play()
        play.node = Node(Settings(1), target=1, epochs=(2, 1), seal_with=1, cid_epochs=(2, 1), announced=2)
        play(happenings.Started())
        play.ready(1)
        play.says(1, m.KeysInUse([2, 1], 1, []))
        for _ in range(9):
            assert self.beat(play, {}, after_s=9.0) == []

    def test_a_rotation_that_needs_the_place_of_a_live_one_is_refused(self, serving: Play) -> None:
        with pytest.raises(CannotDo, match="cannot rotate keys: epoch 8 needs the connection IDs of epoch 1"):
            serving(happenings.UseEpochs((8, 1), 8))
        with pytest.raises(CannotDo, match="connections live on epoch 1, which is not in the new table"):
            serving(happenings.UseEpochs((2,), 2))
        assert serving.node.epochs == (1,)

    def test_a_closed_epoch_is_acknowledged_and_leaves_the_table_with_its_ids(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        assert rotated(happenings.UseEpochs((2, 1), 2, (1,))) == [
            commands.UseCidKeys((2, 1)),
            commands.GiveKeys(1, (2, 1), 2),
        ]
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        assert rotated.node.key_change
        rotated.says(1, m.KeysInUse([2, 1], 2, [1]))
        assert not rotated.node.key_change
        assert self.beat(rotated, {2: 1}) == [commands.UseCidKeys((2,)), commands.GiveKeys(1, (2,), 2)]
        assert (rotated.node.epochs, rotated.node.closed_epochs) == ((2,), ())

    def test_connections_are_moved(self, rotated: Play) -> None:
        rotated.says(1, m.KeysInUse([2, 1], 2, []))
        self.beat(rotated, {1: 3})
        assert rotated(happenings.MoveFrom((1, 99), 5.0)) == [commands.Tell(1, m.Move([1], 5.0))]
        with pytest.raises(CannotDo, match="cannot move connections off epoch 2: it seals"):
            rotated(happenings.MoveFrom((2,), 5.0))
        self.beat(rotated, {2: 3})
        assert rotated.node.moving == frozenset()


def test_a_worker_without_the_keys_is_killed(serving: Play) -> None:
    serving(happenings.UseEpochs((2, 1), 2))
    assert serving(happenings.Ticked(), after_s=5.0) == [commands.Kill(1)]


def test_a_stuck_loop_is_killed(serving: Play) -> None:
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
    texts, _ = said(serving, happenings.Reported(1, m.Heartbeat(0, 0, 0, 0.0, 0)), 1.0)
    assert texts == ["worker 1 reports again, after 111 s"]
    assert not serving.node.workers[1].busy


@pytest.mark.parametrize("last_progress_s", [0.0, 5.0, 10.0, 100.0])
def test_a_worker_that_stops_making_progress_is_killed_within_one_and_a_half_time_outs(
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


def test_a_supervisor_that_was_late_itself_looks_twice_before_it_kills(serving: Play) -> None:
    assert serving(happenings.Ticked({1: 5}), after_s=60.0) == []
    assert serving(happenings.Ticked({1: 5}), after_s=4.9) == []
    assert serving(happenings.Ticked({1: 5}), after_s=0.1) == [commands.Kill(1)]


def test_a_discouraging_node_still_takes_connections(serving: Play) -> None:
    given = serving(happenings.Quiesce(happenings.QuiesceMode.DISCOURAGE))
    assert given == [commands.Tell(1, m.Drain(86_400.0, 10.0, True))]
    assert serving.node.routes.accepting == (1,)
    assert not serving.node.ready


def test_an_announced_quiesce_takes_connections_until_then(serving: Play) -> None:
    assert serving(happenings.Quiesce(announce_s=5.0)) == []
    assert not serving.node.ready
    serving.says(1, m.Heartbeat(1, 0, 0, 0.0, 0))
    assert serving(happenings.Ticked(), after_s=5.0) == [commands.Accept(()), commands.Tell(1, m.Drain(86_400.0, 10.0))]


def test_resume_undoes_a_quiesce_at_any_moment(serving: Play) -> None:
    serving(happenings.Quiesce())
    assert serving(happenings.Resume()) == [
        commands.Accept((1,)),
        commands.RemoveDisableFile(),
        commands.Tell(1, m.Resume()),
    ]
    # What was on its way when it was resumed has no effect.
    assert serving.says(1, m.Drained(0)) == []
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


def test_stop_drains_and_a_second_one_does_not_wait(serving: Play) -> None:
    assert serving(happenings.StopNode())[0] == commands.Accept(())
    assert serving.node.workers[1].state is WorkerState.DRAINING
    assert serving(happenings.StopNode(fast=True)) == [commands.Tell(1, m.Stop())]
    assert serving(happenings.Exited(1, 0))[-1] == commands.Quit(0)


def test_back_off() -> None:
    backoff = Backoff()
    assert backoff.delay_s(served_s=3.0) == 0.0, "clients wait: the first crash is answered at once"
    delays = [backoff.delay_s(served_s=None) for _ in range(200)]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    assert backoff.delay_s(served_s=STABLE_S) == 0.0, "who served for long was fine"


def test_ids_come_back_as_late_as_possible() -> None:
    ids = WorkerIds(last=4)
    assert [ids.lend(()) for _ in range(5)] == [1, 2, 3, 4, 1]
    assert ids.lend({2, 3}) == 4
    with pytest.raises(RuntimeError):
        ids.lend({1, 2, 3, 4})


def test_nobody_ready_means_that_packets_wait_where_they_went_before() -> None:
    assert desired_accepting({}, accepts=True, before=(7, 8), known={7: (0, 0)}) == (7,)
    assert desired_accepting({}, accepts=False, before=(7,), known={7: (0, 0)}) == ()


def test_slots_of_a_core_that_nobody_serves_are_kept_by_two_others() -> None:
    """Else the next supervisor would open them anew, and in tier A that sends everybody's packets to others."""
    workers = {i: Worker(i, core=i, slot=i, started_s=0.0, deadline_s=None, ready_s=1.0) for i in range(3)}
    for worker in workers.values():
        worker.state = WorkerState.READY
    assert keep_idle_slots(workers, 3) == []
    assert keep_idle_slots(workers, 4) == [
        commands.Keep(0, 3),
        commands.Keep(0, 7),
        commands.Keep(1, 3),
        commands.Keep(1, 7),
    ]
    assert keep_idle_slots(workers, 4) == [], "once"
    workers[0].state = WorkerState.KILLED
    assert keep_idle_slots(workers, 4) == [
        commands.Keep(1, 0),
        commands.Keep(1, 4),
        commands.Keep(2, 0),
        commands.Keep(2, 4),
        commands.Keep(2, 3),
        commands.Keep(2, 7),
    ]
    workers[5] = Worker(5, core=0, slot=4, started_s=2.0, deadline_s=None)
    assert keep_idle_slots(workers, 4) == [], "others keep the slots of a newcomer that has not served yet"


# --- what a supervisor begins with when nobody lives ------------------------------------------------------------------

CHANGE = happenings.Quiesce(reason="CHG-1", announce_s=60.0, since_s=900.0)


def everybody_dead(quiesced: happenings.Quiesce | None = None) -> happenings.Started:
    """Worker 7 had core 0 and sat in its second slot, worker 8 was draining in the first one."""
    departed = {7: happenings.Departed(0, 1, 1040.0), 8: happenings.Departed(0, 0, 1040.0)}
    return happenings.Started(departed=departed, accepting=(7,), quiesced=quiesced)


def test_successors_of_the_dead_sit_where_packets_wait_and_answer_for_all_of_them() -> None:
    play = Play()
    play.node.ids = WorkerIds(9)
    assert play(everybody_dead()) == [
        commands.Lend(9, 1, 0),
        commands.Lend(7, 1, 0),
        commands.Lend(8, 1, 0),
        # Nobody is ready: new connections wait for who starts, whatever the tables said.
        commands.Accept((9,)),
        commands.Spawn(9, 1, 0),
    ]
    play.ready(9)
    assert play(happenings.Ticked(), after_s=100.0)[:2] == [commands.Forget(7), commands.Forget(8)]


def test_a_node_that_starts_quiesced_lets_nobody_in() -> None:
    play = Play()
    assert commands.Accept(()) in play(everybody_dead(CHANGE)), "what an earlier node let in is not let in any more"
    assert commands.Tell(9, m.Activate(1)) not in play.ready(1)
    assert (play.node.state, play.node.ready) == (NodeState.QUIESCING, False)
    assert play.node.routes.accepting == ()
    play.says(1, m.Drained(0))
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


def test_a_drain_that_was_cut_off_by_the_death_of_all_is_over_and_the_node_stays_out() -> None:
    draining = Contract(Terms(reason="CHG-1"), 900.0, Phase.LIVE)
    play = Play()
    assert commands.WriteDisableFile("CHG-1") in play(happenings.Started(quiesced=CHANGE, contract=draining))
    assert (draining.phase, play.node.accepts) == (Phase.NODE_STOPPED, False)


def test_who_is_silent_and_not_dealt_with_is_counted_against_us(serving: Play) -> None:
    """The watchdog is fed by this: a silent worker is looked at after 5 s, so nothing is behind before that."""
    assert serving.node.behind_s(serving.now_s + 4.9) == 0.0
    assert serving.node.behind_s(serving.now_s + 30.0) == 25.0
    serving(happenings.Ticked(), after_s=10.0)
    assert serving.node.behind_s(serving.now_s + 30.0) == 0.0


@pytest.mark.parametrize(
    ("status", "out_of_memory", "text"),
    [
        (-9, False, "was ended by signal 9"),
        (-9, True, "was killed, probably by the kernel: it has just killed a process because memory ran out"),
        (-11, True, "was ended by signal 11"),
        (m.EXIT_OUT_OF_MEMORY, False, "exited with 71: it could not allocate memory"),
        (None, False, "ended; its exit status is not known"),
    ],
)
def test_how_a_worker_ended_in_words(status: int | None, out_of_memory: bool, text: str) -> None:
    assert describe_exit(status, out_of_memory=out_of_memory) == text


def test_a_newcomer_is_unborn_until_the_roster_has_it() -> None:
    play = Play(cores=2)
    play(happenings.Started())
    first, second = play.node.workers
    play.ready(first)
    assert play.node.workers[first].roster == m.Roster({first: 0}, second)
    play.ready(second)
    assert play.node.workers[first].roster == m.Roster({first: 0, second: 1}, play.node.ids.next_id)
    told = [c for c in play(happenings.Restart((0,))) if isinstance(c, commands.Tell) and isinstance(c.order, m.Roster)]
    assert told == [], "the third one is lent, and still unborn to those who serve"
    newcomer = max(play.node.workers)
    assert play.node.workers[first].roster.unborn_from == newcomer


def test_the_oldest_of_the_unborn_counts_across_the_end_of_the_ids() -> None:
    workers = {i: Worker(i, 0, 0, 0.0, None) for i in (0xFFFF, 1)}
    assert desired_roster(workers, 2).unborn_from == 0xFFFF
    assert desired_roster({}, 2).unborn_from == 2
