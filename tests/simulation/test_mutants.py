"""The simulation notices a broken node: each of these one-line mistakes violates an invariant within a few runs.

Named after the mistake; beside it the invariant (test_node.py) that it violates. Several are mistakes that this node
had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from supervisor.node import deadlines, key_change, orders, reports, rolling, routes, staffing
from supervisor.node.agreement import Agreement
from supervisor.node.core import free_slots
from supervisor.node.happenings import Adopted, Started, UseEpochs
from supervisor.node.node import Node
from supervisor.node.rollout import Rollout
from supervisor.node.state import State
from supervisor.node.worker import Worker, WorkerIds
from supervisor.succession import translate
from tests.simulation.test_node import run
from velocity_edge.wire import messages

#: Most are found in the first ten runs; those that need a death at a certain moment, later.
RUNS = 400

Break = Callable[[pytest.MonkeyPatch], None]


def an_id_is_lent_again_at_once(patch: pytest.MonkeyPatch) -> None:
    def lend(self: WorkerIds, taken: Iterable[int]) -> int:
        return next(i for i in range(1, self.last) if i not in taken)

    # The lowest free id, and dead workers are forgotten.
    patch.setattr(WorkerIds, "lend", lend)
    patch.setattr(Node, "departed", property(lambda self: {}, lambda self, value: None))


def ids_start_again_with_each_supervisor(patch: pytest.MonkeyPatch) -> None:
    started = translate.started

    def forgetful(*arguments: object, **named: object) -> Started:
        s = started(*arguments, **named)  # type: ignore[arg-type]
        return replace(s, departed={})

    patch.setattr(translate, "started", forgetful)
    patch.setattr(WorkerIds, "__init__", lambda self, next_id=1, last=60: _set(self, next_id=1, last=last))


def unknown_ids_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes.Routes, "begin_with", lambda self, lent: None)


def steering_is_believed_to_be_as_wanted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes.Routes, "told", property(lambda self: True, lambda self, value: None), raising=False)


def new_connections_go_to_the_ready_only(patch: pytest.MonkeyPatch) -> None:
    def desired(workers: dict[int, Worker], *, accepts: bool, before: object, known: object) -> tuple[int, ...]:
        return tuple(
            sorted(worker.worker_id for worker in workers.values() if accepts and worker.serving and not worker.doomed)
        )

    patch.setattr(routes, "desired_accepting", desired)


def a_leaving_worker_is_still_chosen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "doomed", property(lambda self: self.state in ("stopping", "killed")))


def one_prepared_worker_is_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Agreement, "acknowledge", lambda self, worker_id: True)


def keys_are_sealed_with_before_all_have_them(patch: pytest.MonkeyPatch) -> None:
    begin = key_change.begin

    def at_once(node: State, wish: UseEpochs) -> None:
        begin(node, wish)
        if node.key_change:
            key_change.finish(node)

    patch.setattr(key_change, "begin", at_once)


def the_old_worker_leaves_first(patch: pytest.MonkeyPatch) -> None:
    def bring_up(node: State) -> None:
        if node.rollout and node.rollout.running and node.rollout.newcomer is None:
            core = node.rollout.cores[0]
            for worker in list(node.workers.values()):
                if worker.core == core and worker.serving:
                    orders.dismiss(node, worker)
            if slots := free_slots(core, node.settings.cores, node.workers):
                node.rollout.newcomer = orders.spawn(node, core, slots[0])

    patch.setattr(rolling, "bring_up", bring_up)


def the_next_core_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    ready = Rollout.ready
    patch.setattr(Rollout, "ready", lambda self, old: ready(self, set()))


def a_rollout_ends_with_its_supervisor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rolling, "adopt", lambda node, rolling: None)
    patch.setattr(orders, "dismiss", _not_on_adoption(orders.dismiss))


def a_worker_that_was_to_leave_is_not_told_again(patch: pytest.MonkeyPatch) -> None:
    adopt = staffing.adopt

    def silent(node: State, adopted: Adopted, *, leaves: bool) -> None:
        adopt(node, adopted, leaves=False)
        node.workers[adopted.worker_id].leaving = leaves

    patch.setattr(staffing, "adopt", silent)


def an_interrupted_resume_is_not_finished(patch: pytest.MonkeyPatch) -> None:
    first_orders = staffing.first_orders

    def halfway(node: State, started: Started) -> None:
        if started.quiesced:
            first_orders(node, started)

    patch.setattr(staffing, "first_orders", halfway)


def a_quiesce_ends_with_its_supervisor(patch: pytest.MonkeyPatch) -> None:
    started = translate.started

    def forgetful(*arguments: object, **named: object) -> Started:
        s = started(*arguments, **named)  # type: ignore[arg-type]
        return replace(s, quiesced=None)

    patch.setattr(translate, "started", forgetful)


def a_late_answer_counts_for_the_next_reload(patch: pytest.MonkeyPatch) -> None:
    def prepared(node: State, worker: Worker, revision: int) -> None:
        worker.prepared = revision
        orders.activate(node, worker)

    patch.setattr(reports, "prepared", prepared)


def an_epoch_is_retired_when_it_stops_sealing(patch: pytest.MonkeyPatch) -> None:
    def retire(node: State) -> None:
        if len(node.cid_epochs) > 1 and not node.announced and not node.key_change:
            key_change.retire(node, tuple(epoch for epoch in node.cid_epochs if epoch != node.seal_with))

    patch.setattr(key_change, "retire_idle", retire)


def ids_of_dead_workers_do_not_count(patch: pytest.MonkeyPatch) -> None:
    retire = key_change.retire_idle

    def without_the_dead(node: State) -> None:
        departed, node.departed = node.departed, {}
        node.lingering = {}
        retire(node)
        node.departed = departed

    patch.setattr(key_change, "retire_idle", without_the_dead)


def a_scale_down_ignores_which_workers_remain(patch: pytest.MonkeyPatch) -> None:
    def shrink(node: State) -> None:
        for worker in list(node.workers.values()):
            if worker.core >= node.target:
                orders.dismiss(node, worker)

    patch.setattr(staffing, "shrink", shrink)


def deadlines_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deadlines, "overdue", lambda node, worker: None)


def a_busy_worker_is_taken_for_hung(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deadlines, "look", lambda node, worker, progress: None)
    patch.setattr(deadlines, "look_due_s", lambda node, worker: None)


def a_hung_worker_is_taken_for_busy(patch: pytest.MonkeyPatch) -> None:
    look = deadlines.look

    def generous(node: State, worker: Worker, progress: int | None) -> None:
        worker.progress = -1
        look(node, worker, progress)

    patch.setattr(deadlines, "look", generous)


def the_orders_of_a_dismissal_are_lost(patch: pytest.MonkeyPatch) -> None:
    tell = Node.tell
    patch.setattr(
        Node,
        "tell",
        lambda self, worker, order: None if isinstance(order, messages.Stop) else tell(self, worker, order),
        raising=False,
    )
    deadlines_are_ignored(patch)


def _set(ids: WorkerIds, **values: int) -> None:
    for name, value in values.items():
        setattr(ids, name, value)


def _not_on_adoption(dismiss: Callable[..., None]) -> Callable[..., None]:
    def later_only(node: State, worker: Worker, by_s: float | None = None) -> None:
        if node.state != "starting":
            dismiss(node, worker, by_s)

    return later_only


@pytest.mark.parametrize(
    ("mistake", "invariant"),
    [
        (an_id_is_lent_again_at_once, "invariant 1"),
        (ids_start_again_with_each_supervisor, "invariant 1"),
        (unknown_ids_stay, "invariant 2"),
        (steering_is_believed_to_be_as_wanted, "invariant 3"),
        (new_connections_go_to_the_ready_only, "invariant 3"),
        (a_leaving_worker_is_still_chosen, "invariant"),
        (one_prepared_worker_is_enough, "invariant [45]"),
        (keys_are_sealed_with_before_all_have_them, "invariant 5"),
        (the_old_worker_leaves_first, "invariant"),
        (the_next_core_does_not_wait, "invariant 6"),
        (a_rollout_ends_with_its_supervisor, "invariant"),
        (a_worker_that_was_to_leave_is_not_told_again, "invariant"),
        (an_interrupted_resume_is_not_finished, "invariant 7"),
        (a_quiesce_ends_with_its_supervisor, "invariant 7"),
        (a_late_answer_counts_for_the_next_reload, "invariant 4"),
        (an_epoch_is_retired_when_it_stops_sealing, "invariant 9"),
        (ids_of_dead_workers_do_not_count, "invariant 9"),
        (a_scale_down_ignores_which_workers_remain, "invariant 3"),
        (deadlines_are_ignored, "invariant (8|10)"),
        (a_busy_worker_is_taken_for_hung, "invariant 10"),
        (a_hung_worker_is_taken_for_busy, "invariant"),
        (the_orders_of_a_dismissal_are_lost, "invariant (8|10)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_simulation_notices(mistake: Break, invariant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match=invariant):
        run_many()


def run_many() -> None:
    for seed in range(RUNS):
        run(seed)
