"""Asking a node for a change: sends the request, prints the lines of the answer, returns the exit code of the last one.

The node decides what is waited for and how it ended (supervisor/admin). Ctrl-C undoes nothing. `followed_drain` and
`until_stopped` are for the two operations whose supervisor may exit before the last line.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from velocity_edge.admin.requests import Drain, Request, Stop
from velocity_edge.cli.node import Node, Received
from velocity_edge.cli.output import show, show_json
from velocity_edge.errors import CannotDo, TimedOut, Unreachable, VelocityError

#: The node ends a wait itself and reports how it stands; this is for a node that does not.
_SLACK_S: Final = 30.0
#: When a supervisor dies during a drain and a service manager restarts it, the next one answers within seconds.
_ATTACH_S: Final = 30.0


def ask(request: Request, as_json: bool, timeout_s: float = 0.0) -> int:
    """Send *request* and print the answer; return its exit code. *timeout_s*: how long the node may wait."""
    return print_all(Node().ask(request, timeout_s=timeout_s + _SLACK_S), as_json)


def print_all(lines: Iterator[Received], as_json: bool) -> int:
    """Print each line; return the exit code that the last one has."""
    code: int | None = None
    for received in lines:
        print_line(received.line, as_json)
        code = received.answer.exit_code
    if code is None:
        raise VelocityError(
            "cannot tell how it ended: the node closed the connection before it said so; see `velocity-edge status`"
        )
    return code


def print_line(line: dict[str, Any], as_json: bool) -> None:
    """Print one line of an answer: as it came, or its text with the time."""
    if as_json:
        show_json(line, indent=False)
    else:
        show(f"{time.strftime('%H:%M:%SZ', time.gmtime())}  {line.get('text', '')}")


def followed_drain(request: Drain) -> Iterator[Received]:
    """Start a drain and follow it to its end, also when another supervisor takes the node over."""
    last: Received | None = None
    try:
        for last in Node().ask(request, timeout_s=_SLACK_S):
            yield last
    except Unreachable:
        if last is None:
            raise
    end_s = time.monotonic() + _ATTACH_S
    while last is None or last.answer.exit_code is None:
        try:
            for last in Node().ask(Drain(attach=True, reason=request.reason), timeout_s=_SLACK_S):
                yield last
        except (Unreachable, CannotDo):
            if time.monotonic() > end_s:
                raise
        time.sleep(0.2)


def until_stopped(request: Stop, timeout_s: float) -> Iterator[Received]:
    """Stop the node and yield its lines, which come every few seconds. Raises `TimedOut` when the time is up."""
    end_s = time.monotonic() + timeout_s
    last: Received | None = None
    try:
        for last in Node().ask(request, timeout_s=max(1.0, min(timeout_s, _SLACK_S))):
            yield last
            if last.answer.exit_code is None and time.monotonic() >= end_s:
                raise TimedOut(
                    f"cannot wait longer than {timeout_s:g} s: the node goes on stopping; see `velocity-edge status`"
                )
    except Unreachable:
        if last is None:
            raise
    if last is None or last.answer.exit_code is None:
        raise Unreachable(
            "cannot tell whether the node has stopped: it closed the connection before it said so; "
            "`velocity-edge admin stop --orphans` ends what is left of it"
        )


def reason_or_user(reason: str) -> str:
    """Return the reason that was given, else who asks."""
    return reason or f"by {_user()}"


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
