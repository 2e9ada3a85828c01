"""What a worker reports, and what follows. Pure.

A report is a fact that the decisions build on: a worker is equipped after its Hello, activated when it is Prepared, and
serves when it reports Ready. A report that does not come in time is noticed by deadlines.py.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.node import exits, key_change, orders, reloading, requests, rolling
from supervisor.node.commands import Equip, GiveKeys, Tell
from supervisor.node.core import other_slot
from supervisor.node.lifecycle import WorkerEvent, WorkerState
from supervisor.node.routes import desired_roster
from supervisor.node.state import State
from supervisor.node.worker import Worker
from velocity_edge.wire import messages


def heard(node: State, worker_id: int, report: messages.Report) -> None:
    """A worker sent a report."""
    worker = node.workers.get(worker_id)
    if worker is None or worker.state is WorkerState.KILLED:
        return  # sent before it was killed
    if worker.busy:
        silent_s = node.now_s - worker.heard_s
        node.say(f"worker {worker_id} reports again, after {silent_s:.0f} s", worker=worker)
    worker.heard_s, worker.progress, worker.busy = node.now_s, None, False
    match report:
        case messages.Hello():
            _hello(node, worker, report)
        case messages.Held():
            exits.condemn(node, worker_id, "it sent descriptors that were not asked for")
        case messages.Prepared(revision):
            prepared(node, worker, revision)
        case messages.Refused(revision, reason):
            _refused(node, worker, revision, reason)
        case messages.Ready(revision):
            _ready(node, worker, revision)
        case messages.KeysInUse():
            _keys_in_use(node, worker, report)
        case messages.Heartbeat():
            worker.heartbeat, worker.by_config = report, report.connections_by_config
        case messages.Drained(lost, cut):
            _drained(node, worker, lost, cut)
        case messages.Aborted():
            node.aborted.append(report)
            node.aborting.discard(worker_id)
        case messages.Measured():
            pass  # no decision depends on it: worker_links.py
        case _ as forgotten:
            assert_never(forgotten)


def _hello(node: State, worker: Worker, hello: messages.Hello) -> None:
    if not messages.speaks(hello):
        theirs = f"{hello.oldest_protocol} to {hello.protocol_version}"
        ours = f"{messages.OLDEST_PROTOCOL} to {messages.PROTOCOL_VERSION}"
        exits.condemn(node, worker.worker_id, f"it speaks the protocols {theirs}, the supervisor speaks {ours}")
        return
    if worker.hello or hello.worker_id != worker.worker_id:
        exits.condemn(node, worker.worker_id, "it sent an unexpected Hello")
        return
    worker.hello = hello
    if worker.state is not WorkerState.STARTING:
        return
    worker_id = worker.worker_id
    worker.roster = desired_roster(node.workers, node.ids.next_id)
    node.commands += [
        Equip(worker_id, worker.slot, other_slot(worker.slot, node.settings.cores)),
        GiveKeys(worker_id, node.epochs, node.seal_with),
        Tell(worker_id, worker.roster),
    ]
    orders.give_config(node, worker, node.revision)


def prepared(node: State, worker: Worker, revision: int) -> None:
    """A worker can use *revision*."""
    worker.prepared = revision
    if revision == node.revision:
        if worker.given == revision:
            orders.activate(node, worker)
    elif node.reloading and revision == node.reloading.target and node.reloading.acknowledge(worker.worker_id):
        reloading.finish(node)


def _refused(node: State, worker: Worker, revision: int, reason: str) -> None:
    if node.reloading and revision == node.reloading.target:
        reloading.fail(node, f"worker {worker.worker_id} refused: {reason}")
    elif revision == node.revision:
        exits.condemn(node, worker.worker_id, f"it refused: {reason}")
        requests.fail_start(node, reason)
    # Otherwise it refused a revision that has been superseded.


def _ready(node: State, worker: Worker, revision: int) -> None:
    worker.revision = revision
    if revision == node.revision:
        worker.activation_due_s = None
    if worker.state is not WorkerState.STARTING:
        return
    worker.advance(WorkerEvent.READY)
    worker.ready_s, worker.deadline_s = node.now_s, None
    node.cores[worker.core].start_failures = 0
    took_s = node.now_s - worker.started_s
    node.say(f"worker {worker.worker_id} serves core {worker.core} after {took_s:.1f} s", worker=worker)
    if node.rollout and node.rollout.newcomer == worker.worker_id:
        rolling.hand_over(node, worker)
    if node.draining_order and not worker.doomed:
        # A node that discourages still takes connections: the worker gets the whole time.
        orders.drain(node, worker, node.draining_order if node.discouraging else requests.drain_order(node))


def _keys_in_use(node: State, worker: Worker, report: messages.KeysInUse) -> None:
    if worker.keys_in_use is None or worker.keys_in_use.seal_with != report.seal_with:
        worker.by_config = None  # until then it may have given out ids of the earlier epoch
    worker.keys_in_use = report
    change = node.key_change
    # A worker of an earlier version cannot close an epoch, and is no reason to wait.
    closed = report.closed is None or set(node.closed_epochs) <= set(report.closed)
    has_all = set(node.epochs) <= set(report.epochs) and closed
    if change and has_all and change.acknowledge(worker.worker_id):
        key_change.finish(node)


def _drained(node: State, worker: Worker, lost: int, cut: int) -> None:
    if worker.state is not WorkerState.DRAINING or (node.discouraging and not worker.leaving):
        return  # resumed or stopped meanwhile; or other connections have come instead
    worker.drained, worker.lost, worker.cut = True, lost, cut
    rolling.drained(node, worker, lost)
    if lost:
        node.say(f"worker {worker.worker_id} drained, {lost} requests lost at the deadline", "warning", worker)
    if worker.leaving:
        orders.stop(node, worker)
