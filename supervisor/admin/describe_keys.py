"""The epoch table for `status`, `tickets list` and the metrics, without keys; and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.chores.rotation import waits_for
from supervisor.machine.keyring import LOST
from supervisor.node.epochs import connections_by_epoch
from supervisor.shell import Shell
from velocity_edge.keys import rotation
from velocity_edge.keys.table import EpochTable
from velocity_edge.status.document import KeyEpoch, Keys


def describe_keys(shell: Shell) -> Keys:
    """Return the table without its secrets."""
    table, node, now_s = shell.keyring.table, shell.node, shell.steady_clock()
    to_wall_s = shell.wall_clock() - now_s
    held = connections_by_epoch(node.cid_epochs, node.workers.values())
    max_age_s = shell.active.config.tickets.max_age_s
    rows: list[KeyEpoch] = []
    for epoch in table.epochs:
        state = _state(table, epoch.epoch)
        stopped_s = rotation.stopped_s(table, epoch.epoch)
        until_s = stopped_s + max_age_s + to_wall_s if state == "opens" and stopped_s is not None else None
        rows.append(
            {
                "epoch": epoch.epoch,
                "age_s": int(now_s - epoch.created_s),
                "state": state,
                "opens_until_s": until_s,
                "ids_live": epoch.epoch in node.cid_epochs,
                "connections": held.get(epoch.epoch, 0),
            }
        )
    return {
        "seal_with": table.seal_with,
        "ages_s": {str(row["epoch"]): row["age_s"] for row in rows},
        "epochs": rows,
        "storage": shell.keyring.source.name,
        "anew_at_s": shell.keyring.history.anew_s,
        "anew_reason": shell.keyring.history.reason,
    }


def degraded_keys(shell: Shell) -> Iterator[str]:
    """Yield what is wrong with the keys, for `degraded`."""
    history, max_age_s = shell.keyring.history, shell.active.config.tickets.max_age_s
    if history.anew_s is not None and shell.steady_clock() - history.anew_s < max_age_s:
        # As long as an earlier session could have been resumed.
        yield f"the keys began anew: {history.reason}; {LOST}"
    if shell.keyring.table.seal_with in shell.keyring.from_future:
        yield (
            f"the sealing key was created {shell.keyring.ahead_s:.0f} s in the future when this node started: the "
            "clock was wrong then, or is now; the age of the key is counted from the start of the node"
        )
    if (epoch := waits_for(shell)) is not None:
        count = connections_by_epoch((epoch,), shell.node.workers.values())[epoch]
        yield (
            f"the keys cannot rotate: the next epoch needs the connection IDs of epoch {epoch}, which {count} "
            f"connections use; they are asked to move, `velocity-edge tickets expire --epoch {epoch}` waits for it"
        )


def _state(table: EpochTable, number: int) -> str:
    if number == table.seal_with:
        return "seals"
    if number == table.announced:
        return "announced"
    return "closed" if number in table.closed else "opens"
