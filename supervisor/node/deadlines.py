"""What is due at which time, and what follows when it is: reports that did not come, workers that hang. Pure.

A worker without heartbeats does not hang yet: while its slab shows progress it is busy, which is logged and has no
other consequence. Progress is compared between two looks, half a heartbeat timeout apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.node import exits, orders, reloading, requests
from supervisor.node.agreement import Agreement
from supervisor.node.lifecycle import WorkerState
from supervisor.node.state import State
from supervisor.node.worker import Worker


def next_due_s(node: State) -> float | None:
    """Return when `Ticked` is due."""
    times = [core.respawn_s for core in node.cores]
    times += [gone.until_s for worker_id, gone in node.departed.items() if worker_id not in node.routes.accepting]
    times += [agreement.deadline_s for agreement in (node.reloading, node.key_change) if agreement]
    times += [node.drain_at_s, node.contract.due_s if node.contract else None]
    for worker in node.workers.values():
        if worker.state is WorkerState.KILLED:
            continue
        times += [worker.deadline_s, worker.activation_due_s, worker.hung_up_due_s]
        if worker.serving:
            times += [look_due_s(node, worker), worker.alive_s + node.settings.heartbeat_timeout_s]
    return min((t for t in times if t is not None), default=None)


def ticked(node: State, progress: Mapping[int, int]) -> None:
    """Time has passed; *progress*: worker id -> what its slab counts."""
    now_s = node.now_s
    for worker_id, gone in list(node.departed.items()):
        # While no other worker is ready, new connections wait in the slot of the dead one.
        if gone.until_s <= now_s and worker_id not in node.routes.accepting:
            del node.departed[worker_id]
    for worker in list(node.workers.values()):
        if worker.serving:
            look(node, worker, progress.get(worker.worker_id))
        overdue(node, worker)
    for agreement in (node.reloading, node.key_change):
        if agreement and agreement.deadline_s <= now_s:
            _disagreed(node, agreement)
    if node.drain_at_s is not None and node.drain_at_s <= now_s:
        requests.drain_all(node)


def look_due_s(node: State, worker: Worker) -> float:
    """Return when to look next whether a silent worker makes progress: twice per timeout, to have two values."""
    return max(worker.alive_s, worker.looked_s) + node.settings.heartbeat_timeout_s / 2


def look(node: State, worker: Worker, progress: int | None) -> None:
    """Note whether a silent worker has made progress since the last look. None: its version does not count any."""
    now_s, timeout_s = node.now_s, node.settings.heartbeat_timeout_s
    last_chance = worker.alive_s + timeout_s <= now_s
    if look_due_s(node, worker) > now_s and not last_chance:
        return
    worker.looked_s = now_s
    if progress is None:
        return
    before, worker.progress = worker.progress, progress
    if before is None:
        if last_chance:
            # The supervisor was late itself and has nothing to compare with: look again before it is condemned.
            worker.progressed_s = now_s - timeout_s / 2
    elif progress != before:
        worker.progressed_s = now_s
    silent_s = now_s - worker.heard_s
    if worker.alive_s + timeout_s > now_s and silent_s >= timeout_s and not worker.busy:
        worker.busy = True
        text = f"worker {worker.worker_id} is busy: heartbeat late by {silent_s:.0f} s, but it makes progress"
        node.say(text, "warning", worker)


def overdue(node: State, worker: Worker) -> None:
    """Condemn or stop a worker whose time is over."""
    now_s, settings = node.now_s, node.settings
    if worker.state is WorkerState.KILLED:
        return
    if worker.hung_up_due_s is not None and worker.hung_up_due_s <= now_s:
        exits.condemn(node, worker.worker_id, "it closed its channel")
    elif worker.serving and worker.alive_s + settings.heartbeat_timeout_s <= now_s:
        silent_s = now_s - worker.heard_s
        exits.condemn(node, worker.worker_id, f"no heartbeat for {silent_s:.0f} s and no progress: it hangs")
    elif worker.activation_due_s is not None and worker.activation_due_s <= now_s:
        exits.condemn(node, worker.worker_id, "it was activated and did not become ready")
    elif worker.deadline_s is None or worker.deadline_s > now_s:
        pass
    elif worker.state is WorkerState.DRAINING:
        orders.stop(node, worker)
    elif worker.state is WorkerState.STARTING:
        exits.condemn(node, worker.worker_id, f"it was not ready after {settings.start_timeout_s:g} s")
    else:
        exits.condemn(node, worker.worker_id, "it did not stop")


def _disagreed(node: State, agreement: Agreement) -> None:
    late = ", ".join(map(str, sorted(agreement.waiting)))
    if agreement is node.reloading:
        reloading.fail(node, f"worker {late} did not answer within {node.settings.prepare_timeout_s:g} s")
    else:
        for worker_id in list(agreement.waiting):
            exits.condemn(node, worker_id, "it did not acknowledge the keys")
