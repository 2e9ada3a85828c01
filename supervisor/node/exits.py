"""The end of a worker: it exits, hangs up, or is condemned; and whether another one takes its place. Pure.

A condemned worker (overdue, hung, refused, broke the protocol) gets a SIGKILL; its exit follows. An agreement does not
wait for a worker that is condemned or has exited.
"""

from __future__ import annotations

from supervisor.node import draining, key_change, reloading, requests, rolling
from supervisor.node.commands import Kill
from supervisor.node.happenings import Departed
from supervisor.node.lifecycle import NodeState, WorkerEvent, WorkerState
from supervisor.node.routes import current_worker
from supervisor.node.state import State
from supervisor.node.worker import Worker, describe_exit


def exited(node: State, worker_id: int, status: int | None, *, out_of_memory: bool) -> None:
    """The process of a worker has ended."""
    worker = node.workers.pop(worker_id)
    planned = worker.leaving or node.state is NodeState.STOPPING
    worker.advance(WorkerEvent.EXITED)
    if worker.ready_s is not None or worker_id in node.routes.accepting:
        # One that never served has no connections, but new ones may wait in its slot.
        until_s = node.now_s + (0.0 if worker.ready_s is None else node.settings.quarantine_s)
        node.departed[worker_id] = Departed(worker.core, worker.slot, until_s)
    draining.worker_gone(node, worker, planned=planned)
    node.aborting.discard(worker_id)
    how = worker.reason or describe_exit(status, out_of_memory=out_of_memory)
    if planned and status in (0, None):
        node.say(f"worker {worker_id} of core {worker.core} is gone", worker=worker)
    else:
        node.say(f"worker {worker_id} of core {worker.core} died: {how}", "error", worker)
    _excuse(node, worker_id)
    rolling.worker_gone(node, worker, how)
    if not planned:
        _replace(node, worker, how)


def _replace(node: State, dead: Worker, how: str) -> None:
    core = node.cores[dead.core]
    if core.index >= node.target or current_worker(node.workers.values(), core.index):
        return  # scaled down, or the new worker of a rollout is there already
    served_s = None if dead.ready_s is None else node.now_s - dead.ready_s
    if served_s is None:
        core.start_failures += 1
        if node.state is NodeState.STARTING and core.start_failures >= node.settings.max_start_failures:
            requests.fail_start(node, f"worker {dead.worker_id} of core {core.index} did not become ready: {how}")
            return
    core.restarts += 1
    delay_s = core.backoff.delay_s(served_s)
    core.respawn_s, core.respawn_slot = node.now_s + delay_s, dead.slot
    if delay_s:
        node.say(f"core {core.index} gets another worker in {delay_s:g} s")


def hung_up(node: State, worker_id: int) -> None:
    """The channel of a worker ended."""
    worker = node.workers.get(worker_id)
    if worker and worker.state is not WorkerState.KILLED:
        # Its exit follows within milliseconds, unless only its channel is broken.
        worker.hung_up_due_s = node.now_s + node.settings.grace_s


def condemn(node: State, worker_id: int, reason: str) -> None:
    """Kill a worker."""
    worker = node.workers.get(worker_id)
    if worker is None or worker.state is WorkerState.KILLED:
        return
    worker.reason = reason
    worker.advance(WorkerEvent.CONDEMN)
    worker.deadline_s = worker.activation_due_s = worker.hung_up_due_s = None
    node.say(f"worker {worker_id} is killed: {reason}", "error", worker)
    node.commands.append(Kill(worker_id))
    _excuse(node, worker_id)


def _excuse(node: State, worker_id: int) -> None:
    """Complete the agreements that waited for this worker only."""
    if node.reloading and node.reloading.excuse(worker_id):
        if node.reloading.vouched:
            reloading.finish(node)
        else:
            reloading.fail(node, "all workers that were to try it have exited")
    if node.key_change and node.key_change.excuse(worker_id):
        key_change.finish(node)
