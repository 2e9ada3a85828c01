"""The simulation notices a broken node: each of these one-line mistakes breaks a promise within a few evenings.

Named after the mistake; beside it the promise (test_node.py) that it breaks. Several are mistakes that this node had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from supervisor.node import routes
from supervisor.node.agreement import Agreement
from supervisor.node.happenings import Adopted, Started, UseEpochs
from supervisor.node.node import Node
from supervisor.node.rollout import Rollout
from supervisor.node.worker import Worker, WorkerIds
from supervisor.succession import translate as succession
from tests.simulation.test_node import play
from velocity_edge.wire import messages as m

#: Most are found in the first ten, those that need a death at the wrong moment later.
EVENINGS = 400

Break = Callable[[pytest.MonkeyPatch], None]


def an_id_is_lent_again_at_once(patch: pytest.MonkeyPatch) -> None:
    def lend(self: WorkerIds, taken: Iterable[int]) -> int:
        return next(i for i in range(1, self.last) if i not in taken)

    # The same as before, but nobody remembers the dead.
    patch.setattr(WorkerIds, "lend", lend)
    patch.setattr(Node, "departed", property(lambda self: {}, lambda self, value: None))


def ids_start_again_with_each_supervisor(patch: pytest.MonkeyPatch) -> None:
    started = succession.started

    def forgetful(*arguments: object, **named: object) -> Started:
        s = started(*arguments, **named)  # type: ignore[arg-type]
        return replace(s, departed={})

    patch.setattr(succession, "started", forgetful)
    patch.setattr(WorkerIds, "__init__", lambda self, next_id=1, last=60: _set(self, next_id=1, last=last))


def ids_that_nobody_knows_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes.Routes, "begin_with", lambda self, lent: None)


def steering_is_believed_to_be_as_wanted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes.Routes, "told", property(lambda self: True, lambda self, value: None), raising=False)


def new_connections_go_to_the_ready_only(patch: pytest.MonkeyPatch) -> None:
    def desired(workers: dict[int, Worker], *, accepts: bool, before: object, known: object) -> tuple[int, ...]:
        return tuple(sorted(v.worker_id for v in workers.values() if accepts and v.serving and not v.doomed))

    patch.setattr(routes, "desired_accepting", desired)


def a_leaver_is_still_chosen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "doomed", property(lambda self: self.state in ("stopping", "killed")))


def one_prepared_worker_is_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Agreement, "acknowledge", lambda self, worker_id: True)


def keys_are_sealed_with_before_all_have_them(patch: pytest.MonkeyPatch) -> None:
    use_epochs = Node.use_epochs

    def at_once(self: Node, wish: UseEpochs) -> None:
        use_epochs(self, wish)
        if self.key_change:
            self.finish_key_change()

    patch.setattr(Node, "use_epochs", at_once)


def the_old_one_leaves_first(patch: pytest.MonkeyPatch) -> None:
    def bring_up(self: Node) -> None:
        if self.rollout and self.rollout.running and self.rollout.newcomer is None:
            core = self.rollout.cores[0]
            for worker in list(self.workers.values()):
                if worker.core == core and worker.serving:
                    self.dismiss(worker)
            if slots := self._free_slots(core):
                self.rollout.newcomer = self.spawn(core, slots[0])

    patch.setattr(Node, "_bring_up", bring_up)


def the_next_core_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    ready = Rollout.ready
    patch.setattr(Rollout, "ready", lambda self, old: ready(self, set()))


def a_rollout_dies_with_its_supervisor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "_go_on_rolling", lambda self, rolling: None)
    patch.setattr(Node, "dismiss", _not_on_adoption(Node.dismiss))


def who_was_to_leave_is_not_told_again(patch: pytest.MonkeyPatch) -> None:
    adopt = Node._adopt

    def silent(self: Node, a: Adopted, *, leaves: bool) -> None:
        adopt(self, a, leaves=False)
        self.workers[a.worker_id].leaving = leaves

    patch.setattr(Node, "_adopt", silent)


def a_half_done_resume_is_not_finished(patch: pytest.MonkeyPatch) -> None:
    first_orders = Node._first_orders

    def halfway(self: Node, started: Started) -> None:
        if started.quiesced:
            first_orders(self, started)

    patch.setattr(Node, "_first_orders", halfway)


def a_quiesce_dies_with_its_supervisor(patch: pytest.MonkeyPatch) -> None:
    started = succession.started

    def forgetful(*arguments: object, **named: object) -> Started:
        s = started(*arguments, **named)  # type: ignore[arg-type]
        return replace(s, quiesced=None)

    patch.setattr(succession, "started", forgetful)


def a_late_answer_counts_for_the_next_question(patch: pytest.MonkeyPatch) -> None:
    def prepared(self: Node, worker: Worker, revision: int) -> None:
        worker.prepared = revision
        self.activate(worker)

    patch.setattr(Node, "_prepared", prepared)


def an_epoch_leaves_when_it_stops_sealing(patch: pytest.MonkeyPatch) -> None:
    def retire(self: Node) -> None:
        if len(self.cid_epochs) > 1 and not self.announced and not self.key_change:
            self.retire_epochs(tuple(epoch for epoch in self.cid_epochs if epoch != self.seal_with))

    patch.setattr(Node, "_retire_epochs", retire)


def ids_of_the_dead_do_not_count(patch: pytest.MonkeyPatch) -> None:
    retire = Node._retire_epochs

    def without_the_dead(self: Node) -> None:
        departed, self.departed = self.departed, {}
        self.lingering = {}
        retire(self)
        self.departed = departed

    patch.setattr(Node, "_retire_epochs", without_the_dead)


def a_scale_down_does_not_look_who_is_left(patch: pytest.MonkeyPatch) -> None:
    def shrink(self: Node) -> None:
        for worker in list(self.workers.values()):
            if worker.core >= self.target:
                self.dismiss(worker)

    patch.setattr(Node, "_shrink", shrink)


def nobody_looks_at_the_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "_overdue", lambda self, worker: None)


def who_is_busy_is_taken_for_hung(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "_look", lambda self, worker, progress: None)
    patch.setattr(Node, "_look_due_s", lambda self, worker: None)


def who_hangs_is_taken_for_busy(patch: pytest.MonkeyPatch) -> None:
    look = Node._look

    def generous(self: Node, worker: Worker, progress: int | None) -> None:
        worker.progress = -1
        look(self, worker, progress)

    patch.setattr(Node, "_look", generous)


def the_orders_of_a_dismissal_are_lost(patch: pytest.MonkeyPatch) -> None:
    tell = Node.tell
    patch.setattr(Node, "tell", lambda self, v, order: None if isinstance(order, m.Stop) else tell(self, v, order))
    nobody_looks_at_the_clock(patch)


def _set(ids: WorkerIds, **values: int) -> None:
    for name, value in values.items():
        setattr(ids, name, value)


def _not_on_adoption(dismiss: Callable[..., None]) -> Callable[..., None]:
    def later_only(self: Node, worker: Worker, by_s: float | None = None) -> None:
        if self.state != "starting":
            dismiss(self, worker, by_s)

    return later_only


@pytest.mark.parametrize(
    ("mistake", "promise"),
    [
        (an_id_is_lent_again_at_once, "promise 1"),
        (ids_start_again_with_each_supervisor, "promise 1"),
        (ids_that_nobody_knows_stay, "promise 2"),
        (steering_is_believed_to_be_as_wanted, "promise 3"),
        (new_connections_go_to_the_ready_only, "promise 3"),
        (a_leaver_is_still_chosen, "promise"),
        (one_prepared_worker_is_enough, "promise [45]"),
        (keys_are_sealed_with_before_all_have_them, "promise 5"),
        (the_old_one_leaves_first, "promise"),
        (the_next_core_does_not_wait, "promise 6"),
        (a_rollout_dies_with_its_supervisor, "promise"),
        (who_was_to_leave_is_not_told_again, "promise"),
        (a_half_done_resume_is_not_finished, "promise 7"),
        (a_quiesce_dies_with_its_supervisor, "promise 7"),
        (a_late_answer_counts_for_the_next_question, "promise 4"),
        (an_epoch_leaves_when_it_stops_sealing, "promise 9"),
        (ids_of_the_dead_do_not_count, "promise 9"),
        (a_scale_down_does_not_look_who_is_left, "promise 3"),
        (nobody_looks_at_the_clock, "promise (8|10)"),
        (who_is_busy_is_taken_for_hung, "promise 10"),
        (who_hangs_is_taken_for_busy, "promise"),
        (the_orders_of_a_dismissal_are_lost, "promise (8|10)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_is_noticed(mistake: Break, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=promise):
        play_many()


def play_many() -> None:
    for seed in range(EVENINGS):
        play(seed)
