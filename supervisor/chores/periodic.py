"""What the supervisor does again and again until the node stops: keep files, count, feed the watchdog.

Each coroutine never returns; the supervisor cancels it. Those that belong to one subject are with it: the files that a
reload reads in reloads.py, the age of keys in rotation.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from supervisor.machine.admin_socket import AdminSocket
from supervisor.machine.kept import RETRY_S
from supervisor.node.happenings import Counted
from supervisor.shell import Shell
from velocity_edge.status.history import EVERY_S, FIRST_S
from velocity_edge.status.pressure import totals_of
from velocity_edge.wire.slab import total

log = logging.getLogger("supervisor")

#: Workers update their counters once per second.
_COUNT_S: Final = 1.0


async def keep_files(shell: Shell, socket: AdminSocket) -> None:
    """Restore what was removed from the runtime directory, and write what could not be written before."""
    while True:
        await asyncio.sleep(RETRY_S)
        shell.keep_files()
        if shell.state_file.ours:
            await socket.keep()


async def count_arrivals(shell: Shell) -> None:
    """While the node drains, tell it every second how many handshakes were completed."""
    while True:
        if shell.node.contract and shell.node.contract.running:
            counters = total(slot.slab for slot in shell.slots)
            shell.happen(Counted(counters["handshakes_completed"]))
        await asyncio.sleep(_COUNT_S)


async def watch_pressure(shell: Shell) -> None:
    """Log the rules by which the node defends itself (velocity_edge/status/pressure.py); `status` has them too."""
    while True:
        await asyncio.sleep(_COUNT_S)
        counters = total(slot.slab for slot in shell.slots)
        for line in shell.pressure.observe(totals_of(counters, shell.steering.counters()), shell.clock()):
            level = logging.INFO if line.over else logging.WARNING
            log.log(level, "%s", line.text, extra={"rule": line.rule})


async def keep_history(shell: Shell) -> None:
    """Take a sample for the last hour (velocity_edge/status/history.py)."""
    while True:
        counters = total(slot.slab for slot in shell.slots)
        totals = totals_of(counters, shell.steering.counters())
        beats = [worker.heartbeat for worker in shell.node.workers.values() if worker.heartbeat]
        connections = sum(beat.connections for beat in beats)
        shell.history.observe(totals, shell.sums.table(), connections, shell.clock(), shell.wall_clock())
        # The first sample is a short one: whoever looks at a new node sees rates.
        await asyncio.sleep(EVERY_S if shell.history.samples else FIRST_S)


async def feed_watchdog(shell: Shell) -> None:
    """Tell the service manager that this loop runs and does its work, if it has a watchdog.

    A worker without a heartbeat is replaced by the Node; that is no reason to restart the supervisor. A worker that is
    silent and has not been replaced in time is one: this supervisor fails at its work, and a successor may not.
    """
    if shell.manager.watchdog_s is None:
        return
    # A supervisor that became this one by an upgrade has asked for a longer interval.
    shell.manager.watchdog_within(shell.manager.watchdog_s)
    while True:
        behind_s = shell.node.behind_s(shell.clock())
        if behind_s <= shell.node.settings.grace_s:
            shell.manager.alive()
        else:
            log.error("%.0f s behind: the watchdog is not fed", behind_s)
        await asyncio.sleep(shell.manager.watchdog_s / 3)
