"""`admin`: change what the node does. Each verb sends one request (velocity_edge/admin) and prints the answer.

The node decides what is waited for and how it ended: the last line of its answer has the exit code. Ctrl-C undoes
nothing.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import click

from velocity_edge.admin import requests
from velocity_edge.cli.asking import ask, followed_drain, print_all, print_line, reason_or_user, until_stopped
from velocity_edge.cli.node import Node
from velocity_edge.cli.options import SECONDS, answers_as_json, dry_run_option, reason_option, timeout_option
from velocity_edge.exits import Exit


@click.group()
def admin() -> None:
    """Change what the node does: quiesce, drain, resume, reload, restart, upgrade."""


@admin.command()
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in requests.Mode]),
    default="graceful",
    help="graceful: refuse new connections, send GOAWAY to the others over --spread; immediate: the same at once; "
    "discourage: send GOAWAY, but accept new connections.",
)
@click.option("--announce", type=SECONDS, default="0s", help="Only fail /readyz for this long first (0s).")
@click.option("--spread", type=SECONDS, default="10s", help="Send GOAWAY to all connections within this time (10s).")
@click.option("--deadline", type=SECONDS, default="24h", help="Close what is left after this (24h).")
@click.option("--wait", is_flag=True, help="Wait until few enough connections are left.")
@click.option("--below", type=int, default=0, help="With --wait: end when at most this many are left (0).")
@timeout_option("10m", "With --wait: wait at most this long")
@reason_option
@answers_as_json
def quiesce(
    mode: str,
    announce: float,
    spread: float,
    deadline: float,
    wait: bool,
    below: int,
    timeout: float,
    reason: str,
    as_json: bool,
) -> int:
    """Ask clients to leave, but keep running. `admin resume` undoes it at any time.

    Exit code with --wait: 0, few enough connections are left; 4, the time is up; 5, the node was resumed or stopped.
    """
    request = requests.Quiesce(
        mode=requests.Mode(mode),
        announce_s=announce,
        spread_s=spread,
        deadline_s=deadline,
        wait=wait,
        below=below if wait else None,
        timeout_s=timeout if wait else None,
        reason=reason_or_user(reason),
    )
    return ask(request, as_json, timeout)


@admin.command()
@reason_option
@answers_as_json
def resume(reason: str, as_json: bool) -> int:
    """Accept new connections again."""
    return ask(requests.Resume(reason=reason_or_user(reason)), as_json)


@admin.command()
@click.option("--settle", type=SECONDS, default="30s", help="Arrivals are over when their rate is low this long (30s).")
@click.option("--settle-below", type=float, default=1.0, help="The rate that is low: new connections per second (1).")
@click.option(
    "--announce-max",
    type=SECONDS,
    help="Go on after this even if clients arrive (120s, or half of --max-wait).",
)
@click.option("--spread", type=SECONDS, help="Send GOAWAY to all within this time (10s, or a quarter of --max-wait).")
@click.option("--max-wait", type=SECONDS, default="15m", help="Close what is left this long after the start (15m).")
@dry_run_option
@reason_option
@answers_as_json
def drain(
    settle: float,
    settle_below: float,
    announce_max: float | None,
    spread: float | None,
    max_wait: float,
    dry_run: bool,
    reason: str,
    as_json: bool,
) -> int:
    """Take the node out of service step by step, and report whether anything was lost.

    Write the disable file and fail /readyz; wait until arrivals are measured to be over; refuse new connections and
    send GOAWAY; wait for the connections that are left; close them at --max-wait. Ctrl-C undoes nothing: `admin drain`
    attaches again, `admin resume` undoes it at any time.

    Exit code 0: nothing was lost; 4: requests were cut off at --max-wait; 1: something else was lost, or it failed; 5:
    the node was resumed or stopped meanwhile.
    """
    request = requests.Drain(
        settle_s=settle,
        settle_below_per_s=settle_below,
        announce_max_s=announce_max,
        spread_s=spread,
        max_wait_s=max_wait,
        dry_run=dry_run,
        reason=reason_or_user(reason),
    )
    return print_all(followed_drain(request), as_json)


@admin.command()
@click.option("--worker", type=int, help="Only the worker with this id (see status).")
@timeout_option("10m")
@dry_run_option
@reason_option
@answers_as_json
def restart(worker: int | None, timeout: float, dry_run: bool, reason: str, as_json: bool) -> int:
    """Replace the workers one after the other; old ones drain, new connections go to new ones."""
    request = requests.Restart(worker_id=worker, dry_run=dry_run, reason=reason_or_user(reason))
    return ask(request, as_json, timeout)


@admin.command()
@timeout_option("60s")
@reason_option
@answers_as_json
def reload(timeout: float, reason: str, as_json: bool) -> int:
    """Read the configuration again. All workers use it, or none does and the node says why."""
    return ask(requests.Reload(reason=reason_or_user(reason)), as_json, timeout)


@admin.command()
@timeout_option("10m")
@reason_option
@answers_as_json
def upgrade(timeout: float, reason: str, as_json: bool) -> int:
    """Run what is installed now: replace the supervisor in place, then the workers one after the other.

    Waits until the last worker is replaced. Refused, with nothing changed, when the new installation could not start.
    """
    from velocity_edge.cli.upgrade import follow

    node = Node()
    before = node.status()
    code = ask(requests.Upgrade(reason=reason_or_user(reason)), as_json, timeout)
    if code != Exit.DONE:
        return code
    return follow(
        node, before, timeout, lambda seen: print_line({"text": seen.text, "exit_code": seen.exit_code}, as_json)
    )


@admin.command()
@click.option("--age", type=SECONDS, required=True, help="Close connections that are older than this.")
@reason_option
@answers_as_json
def abort(age: float, reason: str, as_json: bool) -> int:
    """Close old connections; print how many they were and how many requests ran on them."""
    return ask(requests.Abort(age_s=age, reason=reason_or_user(reason)), as_json)


@admin.command()
@click.argument("workers", type=click.IntRange(min=1))
@timeout_option("60s")
@reason_option
@answers_as_json
def scale(workers: int, timeout: float, reason: str, as_json: bool) -> int:
    """Run WORKERS workers: at most the number of cores, or the number that the node was started with if larger."""
    return ask(requests.Scale(workers=workers, reason=reason_or_user(reason)), as_json, timeout)


@admin.command(name="log-level")
@click.argument("levels", nargs=-1)
@click.option("--for", "for_s", type=SECONDS, default="10m", help="Go back to the configured levels after this (10m).")
@click.option("--reset", is_flag=True, help="Go back to the configured levels now.")
@reason_option
@answers_as_json
def log_level(levels: tuple[str, ...], for_s: float, reset: bool, reason: str, as_json: bool) -> int:
    """Log at other levels for a time, in the supervisor and all workers.

    LEVELS: `debug`, `workers.proxy=debug`, `tls=info,supervisor=debug`. Targets are modules (`supervisor`, `workers`,
    `velocity_edge.tls`) and server, proxy, edge, router, tls, handshake, quic, config, metrics.
    """
    if bool(levels) == reset:
        raise click.UsageError("expected levels such as workers.proxy=debug, or --reset")
    request = requests.LogLevel(levels=",".join(levels) or None, for_s=for_s, reason=reason_or_user(reason))
    return ask(request, as_json)


@admin.command()
@click.option("--fast", is_flag=True, help="Close all connections at once.")
@click.option("--orphans", is_flag=True, help="The supervisor is dead: end the workers and programs that it left.")
@timeout_option("10m")
@reason_option
@answers_as_json
def stop(fast: bool, orphans: bool, timeout: float, reason: str, as_json: bool) -> int:
    """Drain, then stop the node. Returns when it has stopped.

    Exit code 0: no worker and no socket of it is left; 4: the time is up, and the node goes on stopping.
    """
    if orphans:
        # Processes and pins are known to the supervisor, which this package must not import (docs/architecture.md).
        return subprocess.run([sys.executable, "-I", "-m", "supervisor", "--end-orphans"], check=False).returncode
    return print_all(until_stopped(requests.Stop(fast=fast, reason=reason_or_user(reason)), timeout), as_json)


@admin.command(name="status")
@click.pass_context
def admin_status(ctx: click.Context) -> Any:
    """The same as `velocity-edge status`."""
    from velocity_edge.cli.status import status

    return ctx.invoke(status)


@admin.command(name="health")
@click.pass_context
def admin_health(ctx: click.Context) -> Any:
    """The same as `velocity-edge health`."""
    from velocity_edge.cli.health import health

    return ctx.invoke(health)
