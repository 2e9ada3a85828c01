"""What this machine can give a node: the checks behind `velocity-edge doctor`, one room per subject.

They look and try (open a socket, load the packet programs, ask netlink), change nothing, and keep nothing open. What a
start tries, too, is one function for both (needs.py, cpus.py, worker_user.py, supervisor/probe.py).
"""

from velocity_edge.machine.dispatch import dispatch
from velocity_edge.machine.findings import Finding, Level
from velocity_edge.machine.host import host
from velocity_edge.machine.kernel import kernel
from velocity_edge.machine.network import network

__all__ = ["Finding", "Level", "examine"]


def examine() -> list[Finding]:
    """Return everything that was found, in the order in which a person would ask."""
    return [*host(), *kernel(), *dispatch(), *network()]
