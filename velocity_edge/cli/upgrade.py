"""Following an upgrade to its verdict: the supervisor that was asked is not the one that can say how it ended.

The node's answer ends with "upgrading"; then it becomes the new installation (exec), which opens the admin socket anew,
adopts the workers and restarts them. `judge` decides from the status before and the status now; `follow` asks, waits
and says. Who starts a supervisor that has died is not decided here: a service manager gets some seconds for it, and
without one the operator is told what serves on and what would help.
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
#: What a service manager gets to start a supervisor again (deploy: RestartSec=1s), and that one to be reached.
_SUCCESSOR_S: Final = 10.0


class Seen(NamedTuple):
    """What an upgrade is at; with an exit code, how it ended."""

    text: str
    exit_code: int | None = None


def judge(before: NodeStatus, now: NodeStatus | None) -> Seen:
    """Return how far the upgrade is. *now* is None while nobody answers."""
    if now is None or now["started_at_s"] == before["started_at_s"]:
        return Seen("the new supervisor starts")
    if now["state"] == "starting":
        return Seen(f"supervisor {now['version']} adopts the workers")
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
        f"the supervisor is {now['version']}, its workers are not: {rollout['reason']}. Those of before serve on; "
        "repair the installation and `velocity-edge admin restart`, or put the former one back and upgrade again",
        Exit.FAILED,
    )


def _without_rollout(before: NodeStatus, now: NodeStatus) -> Seen:
    """Judge a version that says nothing of its rollout, or one that found no worker to adopt."""
    old = {worker["worker_id"] for worker in before["workers"]}
    ids = {worker["worker_id"] for worker in now["workers"] if worker["state"] == "ready"}
    if not ids or ids & old or len(ids) < len(now["workers"]):
        return Seen(f"supervisor {now['version']} serves; restarting workers")
    if "rollout" in now:
        return Seen(f"{now['version']} serves, but its workers began anew: connections were lost", Exit.FAILED)
    return Seen(f"upgraded to {now['version']}: {len(ids)} workers replaced", Exit.DONE)


def follow(node: Node, before: NodeStatus, timeout_s: float, say: Callable[[Seen], None]) -> int:
    """Tell *say* how the upgrade goes on, each thing once; return the exit code of how it ended."""
    end_s = time.monotonic() + timeout_s
    said, silent_since_s = "", time.monotonic()
    while time.monotonic() < end_s:
        now = _status(node)
        seen = judge(before, now)
        if now is not None or _alive(before["pid"]):
            silent_since_s = time.monotonic()
        elif time.monotonic() > silent_since_s + _SUCCESSOR_S:
            seen = Seen(
                f"the new supervisor (process {before['pid']}) has ended, its log says why, and nobody started "
                "another: the workers serve on without one; `velocity-edge serve` with the same options, of the new "
                "installation or of the former one, takes them over",
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
    except VelocityError:  # nobody there, or about to leave
        return None


def _alive(pid: int) -> bool:
    """Return whether the process runs; one that nobody has waited for yet (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
