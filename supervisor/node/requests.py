"""Requests of an operator that concern all clients: quiesce, resume, abort old connections, stop. Pure.

Each request either takes effect or raises `CannotDo` before anything has changed. Repeating a request is no error where
the result is the same (`quiesce`, `resume`, `stop`). The drain by its contract is in draining.py, which builds on
`drain_all`, `resume` and `end_drain`; a reload in reloading.py, keys in key_change.py, a restart in rolling.py.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.node import orders, reloading
from supervisor.node.commands import RemoveDisableFile
from supervisor.node.drain_contract import Event, Phase, verdict
from supervisor.node.happenings import Quiesce, QuiesceMode
from supervisor.node.lifecycle import NodeEvent, NodeState, WorkerState
from supervisor.node.state import State
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages


def quiesce(node: State, wish: Quiesce) -> None:
    """Have clients leave, and stay up."""
    if node.state is NodeState.STARTING:
        raise CannotDo("cannot quiesce: the node is still starting")
    if node.stopping:
        raise CannotDo("cannot quiesce: the node is stopping")
    if node.contract and node.contract.running:
        if wish.mode is QuiesceMode.DISCOURAGE:
            raise CannotDo("cannot discourage: a drain is under way; `resume` ends it")
        if wish.mode is QuiesceMode.IMMEDIATE:
            if node.contract.phase is Phase.ARRIVALS:
                node.contract.settle("not awaited: an operator quiesced at once", node.now_s)
            drain_all(node)
        return
    if node.quiesced and node.quiesced.mode is wish.mode:
        return  # already under way; the reason and the times of the first request stay
    if node.state is NodeState.QUIESCED:
        return  # no client is left
    since_s = node.now_s if wish.since_s is None else wish.since_s
    node.quiesced = replace(wish, since_s=since_s)
    node.advance(NodeEvent.QUIESCE)
    node.say(f"quiescing ({wish.mode}){': ' + wish.reason if wish.reason else ''}")
    if wish.mode is QuiesceMode.GRACEFUL and since_s + wish.announce_s > node.now_s:
        node.drain_at_s = since_s + wish.announce_s
    else:
        drain_all(node)


def drain_all(node: State) -> None:
    """Have all workers drain, after the announcement of a quiesce or the arrivals of a drain."""
    assert node.quiesced is not None
    node.drain_at_s = None
    node.draining_order = drain_order(node)
    for worker in node.workers.values():
        if worker.serving and not worker.doomed:
            orders.drain(node, worker, node.draining_order)


def drain_order(node: State) -> messages.Drain:
    """Return the order for a worker that is told now: the deadline does not move."""
    assert node.quiesced is not None
    mode, since_s = node.quiesced.mode, node.quiesced.since_s
    announce_s = node.quiesced.announce_s if mode is QuiesceMode.GRACEFUL else 0.0
    passed_s = 0.0 if since_s is None else node.now_s - since_s - announce_s
    spread_s = 0.0 if mode is QuiesceMode.IMMEDIATE else node.quiesced.spread_s
    return messages.Drain(max(0.0, node.quiesced.deadline_s - passed_s), spread_s, mode is QuiesceMode.DISCOURAGE)


def resume(node: State) -> None:
    """Serve again."""
    if node.state is NodeState.SERVING:
        node.commands.append(RemoveDisableFile())  # an operator may have written it by hand
        return
    if node.state is NodeState.STARTING and node.quiesce_first:
        node.quiesce_first = None
        if node.contract:
            node.contract.released = True
        node.commands.append(RemoveDisableFile())
        node.say("resumed: new connections are accepted as soon as workers are ready")
        return
    if node.state not in (NodeState.QUIESCING, NodeState.QUIESCED):
        raise CannotDo(f"cannot resume: the node is {node.state}")
    end_drain(node, Event.RESUME)
    if node.contract:
        node.contract.released = True
    node.quiesced = node.draining_order = node.drain_at_s = None
    node.came_back = False
    node.commands.append(RemoveDisableFile())
    node.advance(NodeEvent.RESUME)
    orders.resume_all(node)
    node.say("resumed")


def end_drain(node: State, event: Event) -> None:
    """The node resumes or stops: so ends a drain that is running."""
    contract = node.contract
    if contract is None or not contract.running:
        return
    contract.lost += sum(worker.lost for worker in node.workers.values())
    contract.cut += sum(worker.cut for worker in node.workers.values())
    contract.happen(event, node.now_s)
    node.say(verdict(contract)[0])


def abort_old(node: State, age_s: float) -> None:
    """Close connections that are older than *age_s*, on all workers."""
    node.aborted, node.aborting = [], {worker.worker_id for worker in node.workers.values() if worker.serving}
    for worker_id in sorted(node.aborting):
        node.tell(node.workers[worker_id], messages.Abort(age_s))


def stop(node: State, *, fast: bool) -> None:
    """Stop: drain and exit; or, when *fast*, exit now. A second request counts only when it is *fast*."""
    if node.state is NodeState.STOPPED or (node.state is NodeState.STOPPING and not fast):
        return
    node.advance(NodeEvent.STOP)
    node.say("stopping at once" if fast else "stopping: connections drain first")
    stop_all(node, fast=fast)


def fail_start(node: State, reason: str) -> None:
    """The node cannot start: stop, and exit with an error."""
    if node.state is not NodeState.STARTING:
        return
    node.exit_code, node.failure = 1, f"cannot start: {reason}"
    node.say(node.failure, "error")
    node.advance(NodeEvent.START_FAILED)
    stop_all(node, fast=True)


def stop_all(node: State, *, fast: bool) -> None:
    """End what is under way, and have all workers leave; those that start or hang are ended by their deadlines."""
    if node.rollout and node.rollout.running:
        node.rollout.abort("the node stops")
    if node.reloading:
        reloading.fail(node, "the node stops")
    end_drain(node, Event.STOP)
    node.key_change = node.drain_at_s = None
    for core in node.cores:
        core.respawn_s = None
    for worker in list(node.workers.values()):
        if fast and worker.state is not WorkerState.STOPPING:
            worker.leaving = True
            orders.stop(node, worker)
        else:
            orders.dismiss(node, worker)
