"""A rolling restart: which workers start and leave because of the rollout's state (rollout.py). Pure."""

from __future__ import annotations

from supervisor.node import orders
from supervisor.node.core import free_slots
from supervisor.node.happenings import Rolling
from supervisor.node.lifecycle import NodeState
from supervisor.node.rollout import Rollout, RolloutState
from supervisor.node.state import State
from supervisor.node.worker import Worker
from velocity_edge.errors import CannotDo


def begin(node: State, cores: tuple[int, ...] | None) -> None:
    """Begin a rolling restart of *cores*, or of all."""
    chosen = may_restart(node, cores)
    node.rollout = Rollout(chosen)
    node.say(f"rolling restart of {len(chosen)} workers")


def may_restart(node: State, cores: tuple[int, ...] | None) -> list[int]:
    """Return the cores that would be restarted, or raise `CannotDo`."""
    if node.state is NodeState.STARTING or node.stopping:
        raise CannotDo(f"cannot restart: the node is {node.state}")
    if node.rollout and node.rollout.running:
        raise CannotDo(f"cannot restart: a restart is under way, {node.rollout.progress}")
    chosen = list(range(node.target)) if cores is None else list(dict.fromkeys(cores))
    for core in chosen:
        if not 0 <= core < node.target:
            raise CannotDo(f"cannot restart core {core}: this node has the cores 0 to {node.target - 1}")
    if not chosen:
        raise CannotDo("cannot restart: no core is named")
    return chosen


def adopt(node: State, rolling: Rolling) -> None:
    """Continue the rolling restart of an earlier supervisor."""
    cores = [core for core in rolling.cores if core < node.target]
    if not cores:
        return
    node.rollout = Rollout(cores)
    node.say(f"the rolling restart continues with {len(cores)} workers")
    newcomer = node.workers.get(rolling.newcomer or 0)
    if newcomer and newcomer.core == cores[0] and not newcomer.doomed:
        node.rollout.newcomer = newcomer.worker_id
        hand_over(node, newcomer)


def bring_up(node: State) -> None:
    """Start the new worker of the rollout, as soon as its core has a free slot."""
    rollout = node.rollout
    if rollout is None or rollout.state is not RolloutState.BRINGING_UP or rollout.newcomer is not None:
        return
    core = rollout.cores[0]
    if slots := free_slots(core, node.settings.cores, node.workers):
        rollout.newcomer = orders.spawn(node, core, slots[0])


def hand_over(node: State, newcomer: Worker) -> None:
    """The new worker is ready: the old workers of its core leave."""
    assert node.rollout is not None
    old = [worker for worker in node.workers.values() if worker.core == newcomer.core and worker is not newcomer]
    for worker in old:
        orders.dismiss(node, worker)
    node.rollout.ready({worker.worker_id for worker in old})
    bring_up(node)


def drained(node: State, worker: Worker, lost: int) -> None:
    """A worker has drained: count what its drain cut off, when it leaves because of the rollout."""
    if node.rollout and worker.worker_id in node.rollout.old:
        node.rollout.lost += lost


def worker_gone(node: State, worker: Worker, how: str) -> None:
    """A worker exited: the rollout may go to the next core, end, or fail."""
    rollout, worker_id = node.rollout, worker.worker_id
    if rollout is None or not rollout.running:
        return
    if worker_id in rollout.old and not worker.drained:
        rollout.lost += worker.running_requests
    newcomer_failed = worker_id == rollout.newcomer and rollout.state is RolloutState.BRINGING_UP
    rollout.gone(worker_id)
    if newcomer_failed:
        rollout.reason = f"worker {worker_id} did not become ready: {how}"
        node.say(f"cannot restart: {rollout.reason}; the other workers stay", "error")
    elif not rollout.running:
        # The only verdict of a restart that no client waits for, such as an upgrade by a signal.
        node.say(f"the rolling restart is done: {rollout.total} workers replaced, lost={rollout.lost}")
