"""Everything that `velocity-edge doctor` looks at, in one list."""

from __future__ import annotations

from velocity_edge.machine.dispatch import dispatch
from velocity_edge.machine.findings import Finding
from velocity_edge.machine.host import host
from velocity_edge.machine.kernel import kernel
from velocity_edge.machine.network import network


def examine() -> list[Finding]:
    """Return everything that was found, in the order in which a person would ask."""
    return [*host(), *kernel(), *dispatch(), *network()]
