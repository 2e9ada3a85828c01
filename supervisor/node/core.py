"""Who keeps the sockets of cores without a worker, for a supervisor that comes after this one. Pure.

A worker holds its own slot and the other one of its core (`words.Equip`). A core that nobody serves (fewer workers than
cores, scaled down, between a crash and the successor) has two slots that only the supervisor holds: when it ends, their
sockets close and the group is renumbered, which in tier A sends everybody's packets to others. So workers that serve
elsewhere keep them, too: two, because one may end together with the supervisor. Nothing is taken back; a copy more does
no harm, and the slot's own worker is believed first (adoption.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from supervisor.node.commands import Command, Keep
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker

_KEEPERS: Final = 2


def keep_idle_slots(workers: Mapping[int, Worker], cores: int) -> list[Command]:
    """Return who is to keep what that it was not given yet, and note it."""
    # Who has not served ends with the supervisor.
    serving = [w for w in workers.values() if w.ready_s is not None and w.state is not WorkerState.KILLED]
    held = {w.core for w in serving}
    keepers = sorted((w for w in serving if not w.doomed), key=lambda w: w.worker_id)[:_KEEPERS]
    commands: list[Command] = []
    for core in range(cores):
        if core in held:
            continue
        for keeper in keepers:
            for slot in sorted({core, core + cores} - keeper.keeps):
                keeper.keeps.add(slot)
                commands.append(Keep(keeper.worker_id, slot))
    return commands
