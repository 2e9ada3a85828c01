"""All checks of `velocity-edge doctor`. Short because it is the list of them."""

from __future__ import annotations

from velocity_edge.machine.dispatch import dispatch
from velocity_edge.machine.findings import Finding
from velocity_edge.machine.host import host
from velocity_edge.machine.kernel import kernel
from velocity_edge.machine.network import network


def examine() -> list[Finding]:
    """Return all findings in the order in which they are shown."""
    return [*host(), *kernel(), *dispatch(), *network()]
