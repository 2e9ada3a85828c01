"""`admin`: change what the node does. Each verb is one POST to the admin API, and says what the node answered.

`--wait` follows the node's connections until there are no more than `--below`; on time-out it says who is left and the
command that goes on (exit code 4).
"""

from __future__ import annotations

import getpass
import json
import os
import time
from typing import Any

import click

from velocity_edge.cli.exits import Exit
from velocity_edge.cli.node import Node
from velocity_edge.cli.units import count, duration
from velocity_edge.config.values import parse_duration

_POLL_S = 1.0


class Duration(click.ParamType[float]):
    """A duration on the command line: 30s, 5m, 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SECONDS = Duration()
_REASON = click.option("--reason", default="", help='Why, for the log and for colleagues: "CHG-1234".')
_JSON = click.option("--json", "as_json", is_flag=True, help="The node's answers as JSON, one per line.")


@click.group()
def admin() -> None:
    """Quiesce, resume, reload, restart: change what the node does."""


@admin.command()
@click.option(
    "--mode",
    type=click.Choice(["graceful", "immediate", "discourage"]),
    default="graceful",
    help="graceful: not ready, then no new connections; immediate: at once; discourage: still takes new ones.",
)
@click.option("--deadline", type=_SECONDS, help="Close what is left after this (24h).")
@click.option("--wait", is_flag=True, help="Wait until few enough connections are left.")
@click.option("--below", type=int, default=0, help="How many are few enough (0).")
@click.option("--timeout", type=_SECONDS, default="10m", help="Wait no longer than this (10m).")
@_REASON
@_JSON
def quiesce(
    mode: str, deadline: float | None, wait: bool, below: int, timeout: float, reason: str, as_json: bool
) -> int:
    """Take leave of clients, and stay up. `admin resume` undoes it at any moment."""
    body: dict[str, Any] = {"mode": mode} | ({"deadline_s": deadline} if deadline is not None else {})
    _ask("quiesce", body, reason, as_json)
    return _follow(below, timeout, as_json) if wait else Exit.DONE


@admin.command()
@_REASON
@_JSON
def resume(reason: str, as_json: bool) -> int:
    """Take new connections again."""
    return _ask("resume", {}, reason, as_json)


@admin.command()
@click.option("--worker", type=int, help="Only this worker (its id, see status).")
@click.option("--timeout", type=_SECONDS, default="10m", help="Wait no longer than this (10m).")
@_REASON
@_JSON
def restart(worker: int | None, timeout: float, reason: str, as_json: bool) -> int:
    """Restart the workers, one after the other; connections are drained, new ones go to the newcomer."""
    return _ask("restart", {} if worker is None else {"worker_id": worker}, reason, as_json, timeout)


@admin.command()
@click.option("--timeout", type=_SECONDS, default="60s", help="Wait no longer than this (60s).")
@_REASON
@_JSON
def reload(timeout: float, reason: str, as_json: bool) -> int:
    """Read the configuration again: every worker uses it, or none and the node says why."""
    return _ask("reload", {}, reason, as_json, timeout)


@admin.command()
@click.option("--age", type=_SECONDS, required=True, help="Close connections that are older than this.")
@_REASON
@_JSON
def abort(age: float, reason: str, as_json: bool) -> int:
    """Close old connections."""
    return _ask("abort", {"age_s": age}, reason, as_json)


@admin.command()
@click.option("--below", type=int, default=0, help="Done when no more connections than this are left (0).")
@click.option("--timeout", type=_SECONDS, default="10m", help="Wait no longer than this (10m).")
@_REASON
@_JSON
def drain(below: int, timeout: float, reason: str, as_json: bool) -> int:
    """Quiesce gracefully and wait until the connections are gone."""
    _ask("quiesce", {"mode": "graceful"}, reason, as_json)
    return _follow(below, timeout, as_json)


@admin.command()
@click.option("--fast", is_flag=True, help="Close what is left at once.")
@_REASON
@_JSON
def stop(fast: bool, reason: str, as_json: bool) -> int:
    """Stop the node: drain, then exit."""
    return _ask("stop", {"fast": fast}, reason, as_json)


def _ask(verb: str, body: dict[str, Any], reason: str, as_json: bool, timeout_s: float = 30.0) -> int:
    """Send one request and print the node's lines; the last one says how it ended."""
    who = {"reason": reason or f"by {_user()}"}
    last: dict[str, Any] = {}
    for last in Node().lines(f"/v1/{verb}", body | who, timeout_s=timeout_s):
        click.echo(json.dumps(last) if as_json else last.get("text", ""))
    return Exit.DONE if last.get("ok", True) else Exit.FAILED


def _follow(below: int, timeout_s: float, as_json: bool) -> int:
    """Print the number of connections, each time it changes, until there are no more than *below*."""
    node, began = Node(), time.monotonic()
    shown: int | None = None
    while True:
        status = node.status()
        left = sum(worker["connections"] for worker in status["workers"])
        clock = time.strftime("%H:%M:%SZ", time.gmtime())
        if status["state"] == "serving":
            click.echo(f"{clock}  the node serves again: somebody has resumed it")
            return Exit.FAILED
        if left != shown:
            waited = duration(time.monotonic() - began)
            click.echo(
                json.dumps({"connections": left, "at": clock})
                if as_json
                else f"{clock}  {count(left)} connections left, after {waited}"
            )
            shown = left
        if left <= below:
            return Exit.DONE
        if time.monotonic() - began > timeout_s:
            busy = ", ".join(
                f"worker {w['worker_id']}: {w['connections']}" for w in status["workers"] if w["connections"]
            )
            click.echo(f"cannot wait longer: {count(left)} connections are left ({busy})", err=True)
            click.echo("go on with: velocity-edge admin drain, or admin abort --age 0s to close them", err=True)
            return Exit.TIMED_OUT
        time.sleep(_POLL_S)


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
