"""`health`: one line and an exit code, for probes, deployment scripts and container health checks.

A node that an operator has quiesced is healthy: the guide's rolling upgrade asks before it resumes, and a container
that drains must not be killed for it. Whether clients should come is another question (`--ready`, /readyz).
"""

from __future__ import annotations

import click

from velocity_edge.cli.node import Node
from velocity_edge.cli.output import show, show_json
from velocity_edge.exits import Exit
from velocity_edge.status.document import NodeStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--live", is_flag=True, help="Only ask whether the node lives: starting or stopping is healthy too.")
@click.option("--ready", is_flag=True, help="Ask whether clients should come: quiesced is not.")
def health(as_json: bool, live: bool, ready: bool) -> int:
    """Say in one line and an exit code how the node is.

    Exit code 0: serving, or quiesced by an operator; 6: that, but degraded; 1: neither (starting, stopping; quiesced,
    with --ready); 3: no answer.
    """
    status = Node().status()
    code, line = verdict(status, live=live, ready=ready)
    if as_json:
        facts = {"state": status["state"], "degraded": status["degraded"], "active_connections": _connections(status)}
        show_json(facts, indent=False)
    else:
        show(line)
    return code


def verdict(status: NodeStatus, *, live: bool = False, ready: bool = False) -> tuple[Exit, str]:
    """Return the exit code and the line for a status."""
    line = f"{status['state']}, {_connections(status)} active connections"
    if status["reason"]:
        line += f" ({status['reason']})"
    fit = ("serving",) if ready else ("serving", "quiescing", "quiesced")
    if status["state"] not in fit and not live:
        return Exit.FAILED, line
    if status["degraded"]:
        return Exit.DEGRADED, f"{line}, degraded: {'; '.join(status['degraded'])}"
    return Exit.DONE, line


def _connections(status: NodeStatus) -> int:
    return sum(worker["connections"] for worker in status["workers"])
