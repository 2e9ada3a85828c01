"""Steps in the life of one worker that several decisions share: start it, configure it, have it drain, stop it. Pure.

Each function changes the worker's state by its table (lifecycle.py) and appends the command that tells the worker. Why
a step is taken is decided by the callers.
"""

from __future__ import annotations

from supervisor.node.commands import GiveConfig, GiveKeys, Spawn
from supervisor.node.lifecycle import WorkerEvent, WorkerState
from supervisor.node.state import State
from supervisor.node.worker import Worker
from velocity_edge.wire import messages


def spawn(node: State, core: int, slot: int) -> int:
    """Start a worker; return its id."""
    worker_id = node.ids.lend({*node.workers, *node.departed})
    deadline_s = node.now_s + node.settings.start_timeout_s
    node.workers[worker_id] = Worker(worker_id, core, slot, node.now_s, deadline_s, heard_s=node.now_s)
    node.cores[core].respawn_s = None
    patient = any(worker.core == core and worker.serving for worker in node.workers.values())
    node.commands.append(Spawn(worker_id, slot, core, patient))
    return worker_id


def give_config(node: State, worker: Worker, revision: int) -> None:
    """Have a worker prepare *revision*. It holds one revision that is not in use: what it was given before is void."""
    worker.given = revision
    node.commands.append(GiveConfig(worker.worker_id, revision))


def activate(node: State, worker: Worker) -> None:
    """Have a prepared worker use the node's revision."""
    worker.activation_due_s = node.now_s + node.settings.prepare_timeout_s
    node.tell(worker, messages.Activate(node.revision))


def give_keys(node: State) -> None:
    """Send the present key table to all workers that can use one."""
    for worker in node.workers.values():
        if worker.hello and worker.state is not WorkerState.KILLED:
            node.commands.append(GiveKeys(worker.worker_id, node.epochs, node.seal_with))


def dismiss(node: State, worker: Worker, by_s: float | None = None) -> None:
    """Have a worker drain and leave for good; *by_s* is the deadline that an earlier supervisor set."""
    if worker.doomed:
        return
    worker.leaving = True
    worker.leave_by_s = node.now_s + node.settings.drain_timeout_s if by_s is None else by_s
    if worker.state is WorkerState.STARTING or worker.drained:
        stop(node, worker)
    else:
        left_s = max(0.0, worker.leave_by_s - node.now_s)
        drain(node, worker, messages.Drain(left_s, node.settings.drain_spread_s))
        worker.deadline_s = node.now_s + left_s + node.settings.grace_s


def drain(node: State, worker: Worker, order: messages.Drain) -> None:
    """Have a worker drain; whether it leaves afterwards is another matter (`dismiss`)."""
    if worker.state is WorkerState.READY:
        worker.advance(WorkerEvent.DRAIN)
    worker.drained, worker.lost, worker.cut = False, 0, 0
    node.tell(worker, order)


def stop(node: State, worker: Worker) -> None:
    """Have a worker close what it has and exit."""
    if worker.state is WorkerState.KILLED:
        return
    worker.advance(WorkerEvent.STOP)
    worker.deadline_s, worker.activation_due_s = node.now_s + node.settings.grace_s, None
    node.tell(worker, messages.Stop())


def resume_all(node: State) -> None:
    """Have all workers that drain and stay serve again."""
    for worker in node.workers.values():
        if worker.state is WorkerState.DRAINING and not worker.leaving:
            worker.advance(WorkerEvent.RESUME)
            worker.drained = False
            node.tell(worker, messages.Resume())
