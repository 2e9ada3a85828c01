"""`admin`: change what the node does. Each verb is one POST to the admin API and prints what the node says meanwhile.

What is waited for, and how it ended, is decided by the node (supervisor/admin/operations.py): its last line has the
exit code. Leaving early (Ctrl-C) undoes nothing.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from velocity_edge.cli.node import Node
from velocity_edge.cli.output import show, show_json
from velocity_edge.config.values import parse_duration
from velocity_edge.errors import CannotDo, TimedOut, Unreachable, VelocityError
from velocity_edge.exits import Exit

#: The node ends a wait itself and says how it stands; this is for when it does not.
_SLACK_S = 30.0
#: A supervisor that dies during a drain has a successor within seconds, where something starts it again.
_ATTACH_S = 30.0


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
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
_SPREAD = click.option("--spread", type=_SECONDS, default="10s", help="GOAWAY to all of them within this (10s).")
_BELOW = click.option("--below", type=int, default=0, help="Done when no more connections than this are left (0).")


def _timeout(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--timeout", type=_SECONDS, default=default, help=f"Wait no longer than this ({default}).")


@click.group()
def admin() -> None:
    """Quiesce, resume, reload, restart: change what the node does."""


@admin.command()
@click.option(
    "--mode",
    type=click.Choice(["graceful", "immediate", "discourage"]),
    default="graceful",
    help="graceful: no new connections, old ones are asked to leave bit by bit; immediate: at once; "
    "discourage: new ones are still taken.",
)
@click.option("--announce", type=_SECONDS, default="0s", help="Be not ready for so long before anything else (0s).")
@_SPREAD
@click.option("--deadline", type=_SECONDS, default="24h", help="Close what is left after this (24h).")
@click.option("--wait", is_flag=True, help="Wait until few enough connections are left.")
@_BELOW
@_timeout("10m")
@_REASON
@_JSON
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
    """Take leave of clients, and stay up. `admin resume` undoes it at any moment.

    Exit code with --wait: 0, few enough are left; 4, the time is up; 5, somebody resumed or stopped the node.
    """
    body = {"mode": mode, "announce_s": announce, "spread_s": spread, "deadline_s": deadline}
    if wait:
        body |= {"wait": True, "below": below, "timeout_s": timeout}
    return ask("quiesce", body, reason, as_json, timeout)


@admin.command()
@_REASON
@_JSON
def resume(reason: str, as_json: bool) -> int:
    """Take new connections again."""
    return ask("resume", {}, reason, as_json)


@admin.command()
@click.option("--settle", type=_SECONDS, default="30s", help="Arrivals are over when few come for so long (30s).")
@click.option("--settle-below", type=float, default=1.0, help="Fewer new connections per second than this are few (1).")
@click.option(
    "--announce-max",
    type=_SECONDS,
    help="Go on after this although clients arrive (120s, or half of --max-wait).",
)
@click.option("--spread", type=_SECONDS, help="GOAWAY to all of them within this (10s, or a quarter of --max-wait).")
@click.option("--max-wait", type=_SECONDS, default="15m", help="Close what is left so long after the beginning (15m).")
@_DRY_RUN
@_REASON
@_JSON
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
    """Take the node out, step by step, and say whether anything was lost.

    Disable file and /readyz; wait until arrivals have been measured to be over; no new connections, GOAWAY; wait for
    those that are left; close them at --max-wait. Leaving early (Ctrl-C) undoes nothing: `admin drain` attaches again,
    `admin resume` undoes it at any moment.

    Exit code 0: nothing was lost; 4: requests were cut off at --max-wait; 1: lost otherwise, or it failed; 5: somebody
    resumed or stopped the node meanwhile.
    """
    body = {"settle_s": settle, "settle_below_per_s": settle_below, "max_wait_s": max_wait}
    body |= {} if announce_max is None else {"announce_max_s": announce_max}
    body |= {} if spread is None else {"spread_s": spread}
    request = body | ({"dry_run": True} if dry_run else {}) | {"reason": reason or f"by {_user()}"}
    return _tell(_attached(request), as_json)


def _attached(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Follow a drain, also from one supervisor to the next."""
    last: dict[str, Any] = {}
    try:
        for last in Node().lines("/v1/drain", request, timeout_s=_SLACK_S):
            yield last
    except Unreachable:
        if not last:
            raise
    end_s = time.monotonic() + _ATTACH_S
    while "exit_code" not in last:
        try:
            for last in Node().lines("/v1/drain", {"attach": True, "reason": request["reason"]}, timeout_s=_SLACK_S):
                yield last
        except (Unreachable, CannotDo):
            if time.monotonic() > end_s:
                raise
        time.sleep(0.2)


@admin.command()
@click.option("--worker", type=int, help="Only this worker (its id, see status).")
@_timeout("10m")
@_DRY_RUN
@_REASON
@_JSON
def restart(worker: int | None, timeout: float, dry_run: bool, reason: str, as_json: bool) -> int:
    """Restart the workers, one after the other; connections are drained, new ones go to the newcomer."""
    body: dict[str, Any] = {} if worker is None else {"worker_id": worker}
    return ask("restart", body | ({"dry_run": True} if dry_run else {}), reason, as_json, timeout)


@admin.command()
@_timeout("60s")
@_REASON
@_JSON
def reload(timeout: float, reason: str, as_json: bool) -> int:
    """Read the configuration again: every worker uses it, or none and the node says why."""
    return ask("reload", {}, reason, as_json, timeout)


@admin.command()
@_timeout("10m")
@_REASON
@_JSON
def upgrade(timeout: float, reason: str, as_json: bool) -> int:
    """Become what is installed now: the supervisor first, in place, then the workers, one after the other.

    Waits until the last worker is replaced. Refused, with nothing changed, when the new installation would not start.
    """
    from velocity_edge.cli.upgrade import follow

    node = Node()
    before = node.status()
    code = ask("upgrade", {}, reason, as_json, timeout)
    if code != Exit.DONE:
        return code
    return follow(node, before, timeout, lambda seen: _print({"text": seen.text, "exit_code": seen.exit_code}, as_json))


@admin.command()
@click.option("--age", type=_SECONDS, required=True, help="Close connections that are older than this.")
@_REASON
@_JSON
def abort(age: float, reason: str, as_json: bool) -> int:
    """Close old connections, and say how many they were and how many requests ran on them."""
    return ask("abort", {"age_s": age}, reason, as_json)


@admin.command()
@click.argument("workers", type=click.IntRange(min=1))
@_timeout("60s")
@_REASON
@_JSON
def scale(workers: int, timeout: float, reason: str, as_json: bool) -> int:
    """Have this many WORKERS, up to the larger of the cores and the workers that the node was started with."""
    return ask("scale", {"workers": workers}, reason, as_json, timeout)


@admin.command()
@click.option("--fast", is_flag=True, help="Close what is left at once.")
@click.option("--orphans", is_flag=True, help="The supervisor is dead: end the workers and programs that it left.")
@_timeout("10m")
@_REASON
@_JSON
def stop(fast: bool, orphans: bool, timeout: float, reason: str, as_json: bool) -> int:
    """Stop the node: drain, then exit. Answers when it has stopped.

    Exit code 0: no worker and no socket of it is left; 4: the time is up, and the node goes on stopping.
    """
    if orphans:
        # It looks for processes and pins, which this package may not know (docs/architecture.md).
        return subprocess.run([sys.executable, "-I", "-m", "supervisor", "--end-orphans"], check=False).returncode
    request = {"fast": fast, "reason": reason or f"by {_user()}"}
    return _tell(
        _within(timeout, Node().lines("/v1/stop", request, timeout_s=max(1.0, min(timeout, _SLACK_S)))), as_json
    )


def _within(timeout_s: float, lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield *lines*, which come every few seconds, until the time is up: then raise `TimedOut`."""
    end_s = time.monotonic() + timeout_s
    last: dict[str, Any] = {}
    try:
        for last in lines:
            yield last
            if "exit_code" not in last and time.monotonic() >= end_s:
                raise TimedOut(
                    f"cannot wait longer than {timeout_s:g} s: the node goes on stopping; see `velocity-edge status`"
                )
    except Unreachable:
        if not last:
            raise
    if "exit_code" not in last:
        raise Unreachable(
            "cannot tell whether the node has stopped: it hung up before it said so; "
            "`velocity-edge admin stop --orphans` ends what is left of it"
        )


@admin.command(name="status")
@click.pass_context
def admin_status(ctx: click.Context) -> Any:
    """Show what the node is doing: `velocity-edge status`."""
    from velocity_edge.cli.status import status

    return ctx.invoke(status)


@admin.command(name="health")
@click.pass_context
def admin_health(ctx: click.Context) -> Any:
    """Say how the node is: `velocity-edge health`."""
    from velocity_edge.cli.health import health

    return ctx.invoke(health)


def ask(verb: str, body: dict[str, Any], reason: str, as_json: bool, timeout_s: float = 0.0) -> int:
    """Send one request, print the node's lines, return the exit code of the last one."""
    request = body | {"reason": reason or f"by {_user()}"}
    return _tell(Node().lines(f"/v1/{verb}", request, timeout_s=timeout_s + _SLACK_S), as_json)


def _tell(lines: Iterator[dict[str, Any]], as_json: bool) -> int:
    """Print each line; return the exit code that the last one has."""
    last: dict[str, Any] = {}
    for last in lines:
        _print(last, as_json)
    if "exit_code" not in last:
        raise VelocityError("cannot tell how it ended: the node hung up before it said so; see `velocity-edge status`")
    return int(last["exit_code"])


def _print(line: dict[str, Any], as_json: bool) -> None:
    clock = time.strftime("%H:%M:%SZ", time.gmtime())
    if as_json:
        show_json(line, indent=False)
    else:
        show(f"{clock}  {line.get('text', '')}")


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
