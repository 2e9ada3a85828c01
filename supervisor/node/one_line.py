"""The node in one line: its title in `ps`, and its status for the service manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.shell import Shell


def status_text(shell: Shell, *, counting: bool = True) -> str:
    """Return the line of `systemctl status`; without counts it changes only when something has happened."""
    words = [title(shell, counting=counting)]
    if shell.origin:
        words.append(shell.origin)
    reload = shell.node.last_reload
    if reload and not reload.ok:
        words.append(f"the last reload was refused: {reload.reason[:200]}")
    return " · ".join(words)


def title(shell: Shell, *, counting: bool = True) -> str:
    """Return the node in half a line."""
    node = shell.node
    workers = node.workers.values()
    connections = sum(v.heartbeat.connections for v in workers if v.heartbeat)
    ready = sum(v.serving and not v.doomed for v in workers)
    words = [str(node.state), shell.steering.tier, f"{ready} of {node.target} workers"]
    if node.contract and node.contract.running:
        words[0] = f"draining: {node.contract.phase}"
    if node.quiesced and node.quiesced.reason:
        words.insert(1, node.quiesced.reason)
    return " · ".join([*words, *([f"{connections} connections"] if counting else [])])
