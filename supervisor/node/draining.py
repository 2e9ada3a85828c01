"""A drain of the node: what follows for its workers from the phase of the contract (drain_contract.py). Pure.

`Node.handle` calls `go_on` after each happening. The node is quiesced (not ready) from the beginning; workers get their
orders when the contract reaches `quiesce`.
"""

from __future__ import annotations

from supervisor.node import requests
from supervisor.node.arrivals import Arrivals, Trend
from supervisor.node.commands import WriteDisableFile
from supervisor.node.drain_contract import Contract, Event, Phase, Terms, verdict
from supervisor.node.happenings import Quiesce, QuiesceMode
from supervisor.node.lifecycle import NodeEvent, NodeState
from supervisor.node.state import State
from supervisor.node.worker import Worker
from velocity_edge.errors import CannotDo


def begin(node: State, terms: Terms) -> None:
    """Take the node out of service. While a drain is running, or its end still holds, this changes nothing."""
    if node.state is NodeState.STARTING or node.stopping:
        raise CannotDo(f"cannot drain: the node is {node.state}")
    if node.contract and node.contract.holds:
        return
    was_quiesced = node.quiesced is not None
    _set(node, Contract(terms, node.now_s, phase_since_s=node.now_s, was_quiesced=was_quiesced))
    reason = terms.reason or (node.quiesced.reason if node.quiesced else "")
    node.quiesced = Quiesce(
        QuiesceMode.GRACEFUL, reason, spread_s=terms.spread_s, deadline_s=terms.max_wait_s, since_s=node.now_s
    )
    node.drain_at_s = None
    if node.state is not NodeState.QUIESCED:
        node.advance(NodeEvent.QUIESCE)
    node.say(f"draining{': ' + reason if reason else ''}")
    node.commands.append(WriteDisableFile(reason))


def adopt(node: State, contract: Contract, quiesced: Quiesce) -> None:
    """Continue the drain of an earlier supervisor."""
    _set(node, contract)
    node.quiesced = quiesced
    node.advance(NodeEvent.QUIESCE)
    # The earlier supervisor may have been killed before the file was written; writing it again does no harm.
    node.commands.append(WriteDisableFile(quiesced.reason))
    if contract.phase is Phase.CUTTING:
        contract.phase_since_s = node.now_s  # workers get the grace to report once more
    if contract.ordered:
        requests.drain_all(node)


def _set(node: State, contract: Contract) -> None:
    node.contract, node.logged_phase = contract, contract.phase
    node.arrivals, node.left = Arrivals(), Trend()


def written(node: State, error: str) -> None:
    """The disable file is written, or cannot be written."""
    contract = node.contract
    if contract is None or not contract.can(Event.WRITTEN):
        return  # it was written again, or late
    contract.error = error
    contract.happen(Event.NOT_WRITTEN if error else Event.WRITTEN, node.now_s)
    if error:
        node.say(f"cannot drain: {error}", "error")
        if not contract.was_quiesced:
            requests.resume(node)


def count(node: State, handshakes: int) -> None:
    """The counters of all workers were read: *handshakes* were completed since they began."""
    contract = node.contract
    if contract is None or not contract.running:
        return
    node.left.add(node.now_s, sum(w.heartbeat.connections for w in node.workers.values() if w.heartbeat))
    if not contract.can(Event.SETTLED):
        return
    if proof := node.arrivals.proof(contract.terms, node.now_s, handshakes, accepts=node.accepts):
        contract.settle(proof, node.now_s)


def go_on(node: State) -> None:
    """Take the steps that follow from what has just happened."""
    contract = node.contract
    if contract is None or not contract.running:
        return
    contract.tick(node.now_s, node.arrivals.new_per_s)
    if contract.phase is Phase.QUIESCE and not contract.ordered:
        contract.ordered = True
        requests.drain_all(node)
    if contract.phase is Phase.QUIESCE and _all_told(node):
        contract.happen(Event.TOLD, node.now_s)
    empty = node.state is NodeState.QUIESCED and contract.can(Event.EMPTY)
    if empty or contract.phase is Phase.STOPPED_HARD:
        contract.lost += sum(worker.lost for worker in node.staying)
        contract.cut += sum(worker.cut for worker in node.staying)
    if empty:
        if contract.cut and contract.phase is not Phase.CUTTING:
            # It ended between two ticks, but at the deadline: workers closed the rest.
            contract.happen(Event.TIME_UP, node.now_s)
        contract.happen(Event.EMPTY, node.now_s)
    _log(node, contract)


def _log(node: State, contract: Contract) -> None:
    if contract.phase is node.logged_phase:
        return
    node.logged_phase = contract.phase
    text = f"drain: {contract.phase}" if contract.running else verdict(contract)[0]
    proof = f" (arrivals {contract.proof})" if contract.phase is Phase.QUIESCE else ""
    node.say(text + proof, "warning" if contract.lost else "info")


def _all_told(node: State) -> bool:
    for worker in node.staying:
        if not worker.serving:
            continue
        beat = worker.heartbeat
        if beat is None or beat.left is None or beat.left.told < beat.connections - beat.half_open:
            return False
    return True


def worker_gone(node: State, worker: Worker, *, planned: bool) -> None:
    """Count the requests and connections that ended with a worker that exited during the drain."""
    contract = node.contract
    if contract is None or contract.phase not in (Phase.QUIESCE, Phase.LIVE, Phase.CUTTING):
        return
    contract.lost += worker.lost if planned or worker.drained else worker.running_requests
    contract.cut += worker.cut
