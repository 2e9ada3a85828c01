"""The node in one line: the title of its process, and its status for the service manager. Pure.

Short because both lines have the same beginning, and are no decision of the node.
"""

from __future__ import annotations

from supervisor.node.state import State


def title(node: State, tier: str, *, counting: bool = True) -> str:
    """Return the state of the node in half a line; without *counting* it changes only when something has happened."""
    workers = node.workers.values()
    connections = sum(worker.heartbeat.connections for worker in workers if worker.heartbeat)
    ready = sum(worker.serving and not worker.doomed for worker in workers)
    words = [str(node.state), tier, f"{ready} of {node.target} workers"]
    if node.contract and node.contract.running:
        words[0] = f"draining: {node.contract.phase}"
    if node.quiesced and node.quiesced.reason:
        words.insert(1, node.quiesced.reason)
    return " · ".join([*words, *([f"{connections} connections"] if counting else [])])


def status_text(node: State, tier: str, origin: str, *, counting: bool = True) -> str:
    """Return the status line of `systemctl status`; *origin*: what an earlier supervisor left to this one."""
    words = [title(node, tier, counting=counting)]
    if origin:
        words.append(origin)
    if node.last_reload and not node.last_reload.ok:
        words.append(f"the last reload was refused: {node.last_reload.reason[:200]}")
    return " · ".join(words)
