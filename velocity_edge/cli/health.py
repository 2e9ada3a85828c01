"""`health`: one line and an exit code, for probes, deployment scripts and container health checks.

A node that an operator has quiesced is healthy: the rolling upgrade of the deployment guide checks it before `resume`,
and a container that drains must not be killed. Whether clients are served is a separate question (`--ready`, /readyz).
"""

from __future__ import annotations

import click

from velocity_edge.cli.node import Node
from velocity_edge.cli.output import show, show_json
from velocity_edge.exits import Exit
from velocity_edge.status.document import NodeStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--live", is_flag=True, help="Check only that the node runs: starting and stopping are healthy.")
@click.option("--ready", is_flag=True, help="Check that the node serves new clients: quiesced is not healthy.")
def health(as_json: bool, live: bool, ready: bool) -> int:
    """Report the health of the node in one line and an exit code.

    Exit code 0: serving, or quiesced by an operator; 6: the same, but degraded; 1: starting or stopping, or quiesced
    with --ready; 3: no answer.
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
