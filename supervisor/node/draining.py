"""A drain in the life of a node: contract.py decides how far it is, this says what follows for the node. Pure.

`begin` and `go_on` work on the node's state and give it commands, like the requests of requests.py; node.py calls
`go_on` after each happening. The node is quiesced from the first moment (not ready), but workers hear of it only when
the contract has come to `quiesce`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.node import drain_contract as c
from supervisor.node.commands import WriteDisableFile
from supervisor.node.happenings import Quiesce, QuiesceMode
from supervisor.node.lifecycle import NodeEvent, NodeState
from velocity_edge.errors import CannotDo

if TYPE_CHECKING:
    from supervisor.node.requests import Requests
    from supervisor.node.worker import Worker


def begin(node: Requests, terms: c.Terms) -> None:
    """Take the node out. While a drain is under way, or its end still holds, this changes nothing."""
    if node.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
        raise CannotDo(f"cannot drain: the node is {node.state}")
    if node.contract and node.contract.holds:
        return
    was_quiesced = node.quiesced is not None
    node.contract = c.Contract(terms, node.now_s, phase_since_s=node.now_s, was_quiesced=was_quiesced)
    reason = terms.reason or (node.quiesced.reason if node.quiesced else "")
    node.quiesced = Quiesce(
        QuiesceMode.GRACEFUL, reason, spread_s=terms.spread_s, deadline_s=terms.max_wait_s, since_s=node.now_s
    )
    node.drain_at_s = None
    if node.state is not NodeState.QUIESCED:
        node.advance(NodeEvent.QUIESCE)
    node.say(f"draining{': ' + reason if reason else ''}")
    node.commands.append(WriteDisableFile(reason))


def adopt(node: Requests, contract: c.Contract, quiesced: Quiesce) -> None:
    """Go on with the drain of an earlier supervisor."""
    node.contract = contract
    node.quiesced = quiesced
    node.advance(NodeEvent.QUIESCE)
    # The earlier one may have been killed before the file was there; writing it again is no harm.
    node.commands.append(WriteDisableFile(quiesced.reason))
    if contract.phase is c.Phase.CUTTING:
        contract.phase_since_s = node.now_s  # workers get the grace to say it once more
    if contract.ordered:
        node.drain_everybody()


def written(node: Requests, error: str) -> None:
    """The disable file is there, or cannot be written."""
    contract = node.contract
    if contract is None or contract.phase is not c.Phase.ROUTES:
        return
    contract.error = error
    contract.happen(c.Event.NOT_WRITTEN if error else c.Event.WRITTEN, node.now_s)
    if error:
        node.say(f"cannot drain: {error}", "error")
        if not contract.was_quiesced:
            node.resume()


def go_on(node: Requests) -> None:
    """Take the steps that follow from what has just happened to the node."""
    contract = node.contract
    if contract is None or not contract.running:
        return
    contract.tick(node.now_s)
    if contract.phase is c.Phase.QUIESCE and not contract.ordered:
        contract.ordered = True
        node.drain_everybody()
    if contract.phase is c.Phase.QUIESCE and _everybody_told(node):
        contract.happen(c.Event.TOLD, node.now_s)
    staying = [worker for worker in node.workers.values() if not worker.doomed]
    if node.state is NodeState.QUIESCED or contract.phase is c.Phase.STOPPED_HARD:
        contract.lost += sum(worker.lost for worker in staying)
        contract.cut += sum(worker.cut for worker in staying)
        if contract.cut:
            # It ended between two looks at the clock, but not by itself.
            contract.happen(c.Event.TIME_UP, node.now_s)
        contract.happen(c.Event.EMPTY, node.now_s)
    if contract.phase is not contract.said:
        contract.said = contract.phase
        text = f"drain: {contract.phase}" if contract.running else c.verdict(contract)[0]
        proof = f" (arrivals {contract.proof})" if contract.phase is c.Phase.QUIESCE else ""
        node.say(text + proof, "warning" if contract.lost else "info")


def _everybody_told(node: Requests) -> bool:
    for worker in node.workers.values():
        if worker.doomed or not worker.serving:
            continue
        beat = worker.heartbeat
        if beat is None or beat.left is None or beat.left.told < beat.connections - beat.half_open:
            return False
    return True


def worker_gone(node: Requests, worker: Worker, *, planned: bool) -> None:
    """Count what a worker took with it that is gone while the node drains."""
    contract = node.contract
    if contract is None or contract.phase not in (c.Phase.QUIESCE, c.Phase.LIVE, c.Phase.CUTTING):
        return
    contract.lost += worker.lost if planned or worker.drained else worker.running_requests
    contract.cut += worker.cut


def over(node: Requests, event: c.Event) -> None:
    """The node resumes or stops: so ends a drain that is under way."""
    contract = node.contract
    if contract is None or not contract.running:
        return
    contract.lost += sum(worker.lost for worker in node.workers.values())
    contract.cut += sum(worker.cut for worker in node.workers.values())
    contract.happen(event, node.now_s)
    node.say(c.verdict(contract)[0])
