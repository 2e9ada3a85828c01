"""All workers accept an epoch before any seals with it; its connection IDs decode until no connection can hold one."""

from __future__ import annotations

import pytest

from supervisor.node import commands, happenings
from supervisor.node.node import Node
from supervisor.node.state import Settings
from tests.unit.supervisor.node.play import Play
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages


def test_keys_are_accepted_everywhere_before_any_worker_seals() -> None:
    play = Play(2)
    play(happenings.Started())
    play.ready(1)
    play.ready(2)
    assert play(happenings.UseEpochs((2, 1), 2)) == [
        commands.UseCidKeys((2, 1)),
        commands.GiveKeys(1, (2, 1), 1),
        commands.GiveKeys(2, (2, 1), 1),
    ]
    assert play.says(1, messages.KeysInUse([2, 1], 1)) == []
    assert play.says(2, messages.KeysInUse([2, 1], 1)) == [
        commands.GiveKeys(1, (2, 1), 2),
        commands.GiveKeys(2, (2, 1), 2),
    ]


class TestOldEpochs:
    """An epoch is retired when it is certain that no connection holds an id of it."""

    @pytest.fixture
    def rotated(self, serving: Play) -> Play:
        """Epoch 2 seals, worker 1 has acknowledged it, epoch 1 has been over for long."""
        serving(happenings.UseEpochs((2, 1), 2))
        serving.says(1, messages.KeysInUse([2, 1], 1, []))
        for _ in range(6):
            self.beat(serving, None, after_s=9.0)
        assert serving.node.cid_epochs == (2, 1)
        return serving

    def beat(
        self, play: Play, counts: dict[int, int] | None, worker_id: int = 1, after_s: float = 0
    ) -> list[commands.Command]:
        play.now_s += after_s
        return play.says(worker_id, messages.Heartbeat(0, 0, 0, 0.0, 0, counts))

    def test_it_is_retired_when_all_workers_report_that(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        assert self.beat(rotated, {1: 1, 2: 5}) == []
        assert self.beat(rotated, {2: 5}) == [commands.UseCidKeys((2,)), commands.GiveKeys(1, (2, 1), 2)]
        assert rotated.node.cid_epochs == (2,)

    def test_counts_of_a_worker_that_may_still_seal_with_it_are_ignored(self, rotated: Play) -> None:
        assert self.beat(rotated, {2: 5}) == []
        # This count was made before it took over the new epoch.
        assert rotated.says(1, messages.KeysInUse([2, 1], 2, [])) == []
        assert self.beat(rotated, {2: 5}) != []

    def test_a_worker_that_does_not_count_keeps_it(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2))
        assert self.beat(rotated, None) == []

    def test_the_ids_of_a_dead_worker_keep_it(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        rotated(happenings.Exited(1, -9))
        rotated.ready(2)
        rotated.says(2, messages.KeysInUse([2, 1], 2, []))
        assert self.beat(rotated, {}, 2) == []
        for _ in range(4):
            self.beat(rotated, {}, 2, after_s=9.0)
        assert rotated.node.cid_epochs == (2, 1)
        rotated(happenings.Ticked(), after_s=9.0)
        assert rotated.node.cid_epochs == (2,)

    def test_a_worker_that_is_being_killed_keeps_it(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        rotated.node.workers[1].by_config = {}
        assert rotated(happenings.Broke(1, "junk")) == [commands.Kill(1)]

    def test_it_stays_for_late_packets_after_the_switch(self, serving: Play) -> None:
        serving(happenings.UseEpochs((2, 1), 2))
        serving.says(1, messages.KeysInUse([2, 1], 1, []))
        serving.says(1, messages.KeysInUse([2, 1], 2, []))
        for _ in range(4):
            assert self.beat(serving, {}, after_s=9.0) == []
        assert self.beat(serving, {}, after_s=4.0)[0] == commands.UseCidKeys((2,))

    def test_it_is_kept_for_a_while_after_a_start_without_workers(self) -> None:
        play = Play()
        play.node = Node(Settings(1), target=1, epochs=(2, 1), seal_with=2, cid_epochs=(2, 1))
        play(happenings.Started())
        play.ready(1)
        play.says(1, messages.KeysInUse([2, 1], 2, []))
        for _ in range(4):
            assert self.beat(play, {}, after_s=9.0) == []
        assert self.beat(play, {}, after_s=4.0)[0] == commands.UseCidKeys((2,))

    def test_a_rotation_that_an_earlier_supervisor_began_keeps_its_epoch(self) -> None:
        play = Play()
        play.node = Node(Settings(1), target=1, epochs=(2, 1), seal_with=1, cid_epochs=(2, 1), announced=2)
        play(happenings.Started())
        play.ready(1)
        play.says(1, messages.KeysInUse([2, 1], 1, []))
        for _ in range(9):
            assert self.beat(play, {}, after_s=9.0) == []

    def test_a_rotation_that_needs_the_connection_ids_of_a_live_epoch_is_refused(self, serving: Play) -> None:
        with pytest.raises(CannotDo, match="cannot rotate keys: epoch 8 needs the connection IDs of epoch 1"):
            serving(happenings.UseEpochs((8, 1), 8))
        with pytest.raises(CannotDo, match="connections live on epoch 1, which is not in the new table"):
            serving(happenings.UseEpochs((2,), 2))
        assert serving.node.epochs == (1,)

    def test_a_closed_epoch_is_acknowledged_and_leaves_the_table_with_its_ids(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        assert rotated(happenings.UseEpochs((2, 1), 2, (1,))) == [
            commands.UseCidKeys((2, 1)),
            commands.GiveKeys(1, (2, 1), 2),
        ]
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        assert rotated.node.key_change
        rotated.says(1, messages.KeysInUse([2, 1], 2, [1]))
        assert not rotated.node.key_change
        assert self.beat(rotated, {2: 1}) == [commands.UseCidKeys((2,)), commands.GiveKeys(1, (2,), 2)]
        assert (rotated.node.epochs, rotated.node.closed_epochs) == ((2,), ())

    def test_connections_are_moved(self, rotated: Play) -> None:
        rotated.says(1, messages.KeysInUse([2, 1], 2, []))
        self.beat(rotated, {1: 3})
        assert rotated(happenings.MoveFrom((1, 99), 5.0)) == [commands.Tell(1, messages.Move([1], 5.0))]
        with pytest.raises(CannotDo, match="cannot move connections off epoch 2: it seals"):
            rotated(happenings.MoveFrom((2,), 5.0))
        self.beat(rotated, {2: 3})
        assert rotated.node.moving == frozenset()
