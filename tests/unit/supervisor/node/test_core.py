"""How long a core waits for its next worker, and which workers keep its slots meanwhile."""

from __future__ import annotations

from supervisor.node import commands
from supervisor.node.core import MAX_DELAY_S, STABLE_S, Backoff, keep_idle_slots
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker


def test_backoff_grows_and_is_reset_by_a_stable_worker() -> None:
    backoff = Backoff()
    assert backoff.delay_s(served_s=3.0) == 0.0, "clients wait: the first crash has no delay"
    delays = [backoff.delay_s(served_s=None) for _ in range(200)]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    assert backoff.delay_s(served_s=STABLE_S) == 0.0, "a stable worker resets it"


def test_slots_of_a_core_without_a_worker_are_kept_by_two_others() -> None:
    """Otherwise the next supervisor would open them anew, which in tier A misdirects all packets."""
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
    assert keep_idle_slots(workers, 4) == [], "each slot is given once"
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
    assert keep_idle_slots(workers, 4) == [], "others keep the slots of a new worker that has not served yet"
