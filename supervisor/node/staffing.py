"""Which worker sits on which core, and how a node begins: with workers of an earlier supervisor, or without. Pure.

`started` is the first happening of every node. Later, `respawn_due` starts workers, `shrink` lets surplus ones
leave, `scale` changes how many are wanted. A rolling restart is in rolling.py.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.node import draining, orders, requests, rolling
from supervisor.node.commands import GiveKeys, RemoveDisableFile, WriteDisableFile
from supervisor.node.core import Core, free_slots
from supervisor.node.drain_contract import Event
from supervisor.node.happenings import Adopted, Started
from supervisor.node.lifecycle import NodeEvent, NodeState, WorkerState
from supervisor.node.routes import current_worker
from supervisor.node.state import State
from supervisor.node.worker import Worker
from velocity_edge.errors import CannotDo


def started(node: State, started: Started) -> None:
    """The supervisor has started: take over what is left, start what is missing."""
    if (wish := started.quiesced) and wish.since_s is not None and not 0 <= wish.since_s <= node.now_s:
        started = replace(started, quiesced=replace(wish, since_s=node.now_s))  # not a time of this boot
    node.departed = dict(started.departed)
    # Connections of earlier workers may still send, and get resets.
    node.lingering = dict.fromkeys(node.cid_epochs, node.now_s + node.settings.quarantine_s)
    node.routes.begin_with(started.lent)
    for worker_id in started.accepting:
        if gone := node.departed.get(worker_id):
            node.cores[gone.core].respawn_slot = gone.slot
    stays = {adopted.core for adopted in started.adopted if not adopted.leaving}
    for adopted in started.adopted:
        # A worker that was to leave and has not begun to stays when the worker in its place is dead.
        leaves = adopted.leaving and (adopted.hello.draining or adopted.core in stays or adopted.core >= node.target)
        adopt(node, adopted, leaves=leaves)
    if started.adopted and started.rolling:
        rolling.adopt(node, started.rolling)
    for core in range(node.target):
        if current_worker(node.workers.values(), core) is None:
            respawn(node, node.cores[core])
    if started.adopted:
        node.say(f"adopted {len(started.adopted)} workers that served on without a supervisor")
        node.advance(NodeEvent.ALL_READY)
        first_orders(node, started)
    else:
        _begin_anew(node, started)


def _begin_anew(node: State, started: Started) -> None:
    """No worker was adopted."""
    if started.accepting:
        dead = len(started.accepting)
        node.say(f"{dead} workers died with an earlier supervisor: their connections get resets", "warning")
    node.contract = started.contract
    if node.contract:
        if node.contract.can(Event.STOP):
            # No connection is left that could be drained.
            node.contract.happen(Event.STOP, node.now_s)
        if node.contract.file_there:
            wish = None if node.contract.released else started.quiesced
            node.commands.append(WriteDisableFile(wish.reason) if wish else RemoveDisableFile())
    if wish := started.quiesced:
        # It was announced to clients before; no connection is accepted meanwhile (`State.accepts`).
        node.quiesce_first = replace(wish, announce_s=0.0)
        why = f" ({wish.reason})" if wish.reason else ""
        node.say(f"starting quiesced, as the node was{why}; `velocity-edge admin resume` accepts connections again")


def adopt(node: State, adopted: Adopted, *, leaves: bool) -> None:
    """Take over one worker; *leaves*: for good."""
    hello = adopted.hello
    worker = Worker(adopted.worker_id, adopted.core, adopted.slot, node.now_s, None, hello=hello, heard_s=node.now_s)
    worker.state = WorkerState.DRAINING if hello.draining else WorkerState.READY
    worker.ready_s, worker.revision = node.now_s, hello.revision
    if leaves:
        orders.dismiss(node, worker, adopted.leave_by_s)
    else:
        for older in node.workers.values():
            # The new worker of a rollout became ready while no supervisor was there.
            if older.core == adopted.core:
                orders.dismiss(node, older)
    node.workers[adopted.worker_id] = worker
    node.commands.append(GiveKeys(adopted.worker_id, node.epochs, node.seal_with))


def first_orders(node: State, started: Started) -> None:
    """Bring adopted workers to what the node wants: an earlier supervisor may have been killed between two commands."""
    rolling_cores = node.rollout.cores if node.rollout and node.rollout.running else []
    for worker in node.workers.values():
        # A worker that is replaced anyway need not understand the revision.
        if worker.serving and worker.revision != node.revision and worker.core not in rolling_cores:
            orders.give_config(node, worker, node.revision)
    node.adoptions = started.adoptions + 1
    if started.quiesced and started.contract and started.contract.running:
        draining.adopt(node, started.contract, started.quiesced)
    elif started.quiesced:
        requests.quiesce(node, started.quiesced)
    else:
        orders.resume_all(node)
    if node.contract is None:
        node.contract = started.contract
    if node.contract and node.contract.file_there and not node.quiesced:
        node.commands.append(RemoveDisableFile())  # the earlier supervisor was killed before it could
    if started.quiesced and started.quiesced.since_s is not None:
        node.state_since_s = started.quiesced.since_s


def scale(node: State, count: int) -> None:
    """Have *count* workers."""
    if node.state is not NodeState.SERVING:
        raise CannotDo(f"cannot scale: the node is {node.state}")
    if node.rollout and node.rollout.running:
        raise CannotDo(f"cannot scale: a restart is under way, {node.rollout.progress}")
    if not 1 <= count <= node.settings.cores:
        raise CannotDo(f"cannot scale to {count} workers: 1 to {node.settings.cores} have slots")
    node.target = count
    for core in node.cores[count:]:
        core.respawn_s = None
    for core in node.cores[:count]:
        if core.respawn_s is None and current_worker(node.workers.values(), core.index) is None:
            core.respawn_s, core.respawn_slot = node.now_s, core.index
    node.say(f"the node is to have {count} workers")


def respawn(node: State, core: Core) -> None:
    """Start a worker in the slot of its predecessor, where packets wait; in the other one when that is taken."""
    slots = free_slots(core.index, node.settings.cores, node.workers)
    if slots:
        orders.spawn(node, core.index, core.respawn_slot if core.respawn_slot in slots else slots[0])
    else:
        # Two workers that leave still sit here.
        core.respawn_s = node.now_s + 1.0


def respawn_due(node: State) -> None:
    """Start the workers that are due."""
    for core in node.cores:
        if core.respawn_s is not None and core.respawn_s <= node.now_s:
            respawn(node, core)


def shrink(node: State) -> None:
    """Have workers of cores that are not wanted leave, once another worker takes new connections."""
    surplus = [worker for worker in node.staying if worker.core >= node.target]
    if surplus:
        others = any(worker.serving and worker.core < node.target for worker in node.staying)
        for worker in surplus:
            if others or not worker.serving:
                orders.dismiss(node, worker)
