"""Follows an upgrade to its end, which the supervisor that was asked cannot report.

Its answer ends with "upgrading"; then it becomes the new installation (exec), which opens the admin socket again,
adopts the workers and restarts them. `judge` decides from the status before and the status now; `follow` polls, waits
and reports. A service manager gets some seconds to restart a supervisor that has died; without one, the operator is
told what still serves and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from velocity_edge.cli.node import Node
from velocity_edge.errors import TimedOut, VelocityError
from velocity_edge.exits import Exit
from velocity_edge.status.document import NodeStatus

_LOOK_S: Final = 0.25
#: For a service manager to restart a supervisor (deploy: RestartSec=1s), and for that one to answer.
_SUCCESSOR_S: Final = 10.0


class Seen(NamedTuple):
    """How far an upgrade is; with an exit code, how it ended."""

    text: str
    exit_code: int | None = None


def judge(before: NodeStatus, now: NodeStatus | None) -> Seen:
    """Return how far the upgrade is. *now* is None while no supervisor answers."""
    if now is None or now["started_at_s"] == before["started_at_s"]:
        return Seen("the new supervisor is starting")
    if now["state"] == "starting":
        return Seen(f"supervisor {now['version']} is adopting the workers")
    rollout = now.get("rollout")
    if rollout is None:
        return _without_rollout(before, now)
    if rollout["running"]:
        return Seen(f"supervisor {now['version']} serves; restarting workers: {rollout['progress']}")
    if rollout["state"] == "done":
        return Seen(
            f"upgraded to {now['version']}: {rollout['total']} workers replaced, lost={rollout['lost']}", Exit.DONE
        )
    return Seen(
        f"the supervisor is {now['version']}, its workers are not: {rollout['reason']}. The previous workers go on "
        "serving; repair the installation and run `velocity-edge admin restart`, or restore the previous installation "
        "and upgrade again",
        Exit.FAILED,
    )


def _without_rollout(before: NodeStatus, now: NodeStatus) -> Seen:
    """Judge a version that does not report its rollout, or one that found no worker to adopt."""
    old = {worker["worker_id"] for worker in before["workers"]}
    ids = {worker["worker_id"] for worker in now["workers"] if worker["state"] == "ready"}
    if not ids or ids & old or len(ids) < len(now["workers"]):
        return Seen(f"supervisor {now['version']} serves; restarting workers")
    if "rollout" in now:
        return Seen(f"{now['version']} serves, but with new workers, and connections were lost", Exit.FAILED)
    return Seen(f"upgraded to {now['version']}: {len(ids)} workers replaced", Exit.DONE)


def follow(node: Node, before: NodeStatus, timeout_s: float, say: Callable[[Seen], None]) -> int:
    """Call *say* with each new state of the upgrade; return its exit code."""
    end_s = time.monotonic() + timeout_s
    said, silent_since_s = "", time.monotonic()
    while time.monotonic() < end_s:
        now = _status(node)
        seen = judge(before, now)
        if now is not None or _alive(before["pid"]):
            silent_since_s = time.monotonic()
        elif time.monotonic() > silent_since_s + _SUCCESSOR_S:
            seen = Seen(
                f"the new supervisor (process {before['pid']}) has exited, its log says why, and no service manager "
                "has restarted it: the workers go on serving without one; `velocity-edge serve` with the same options, "
                "of the new installation or of the previous one, takes them over",
                Exit.FAILED,
            )
        if seen.text != said:
            say(seen)
            said = seen.text
        if seen.exit_code is not None:
            return seen.exit_code
        time.sleep(_LOOK_S)
    raise TimedOut(f"cannot wait longer than {timeout_s:g} s: the upgrade goes on; see `velocity-edge status`")


def _status(node: Node) -> NodeStatus | None:
    try:
        return node.status()
    except VelocityError:  # no supervisor, or one that is exiting
        return None


def _alive(pid: int) -> bool:
    """Return whether the process runs; a zombie (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
