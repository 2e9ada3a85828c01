"""What each signal means to the supervisor.

    TERM   drain, then stop; service managers send it, and may start the node again
    QUIT   drain, then stop for good
    INT    stop at once, for good (Ctrl-C)
    HUP    reload
    USR2   upgrade

Stopped for good: nothing that the node was told (a quiesce, a drain) outlives it. After TERM a successor takes it over.
"""

from __future__ import annotations

import asyncio
import signal

from supervisor.chores.reloads import Reloads
from supervisor.chores.upgrades import Upgrades
from supervisor.node.happenings import StopNode
from supervisor.shell import Shell


class Signals:
    """Turns signals into happenings and chores."""

    def __init__(self, shell: Shell, reloads: Reloads, upgrades: Upgrades) -> None:
        self._shell = shell
        self._reloads = reloads
        self._upgrades = upgrades
        #: The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self) -> None:
        """Handle signals from now on."""
        add = self._shell.loop.add_signal_handler
        add(signal.SIGTERM, self._shell.happen, StopNode())
        add(signal.SIGQUIT, self._stop_for_good, StopNode())
        add(signal.SIGINT, self._stop_for_good, StopNode(fast=True))
        add(signal.SIGHUP, self._reloads.try_to_reload)
        add(signal.SIGUSR2, self._upgrade)

    def _stop_for_good(self, stop: StopNode) -> None:
        self._shell.stopped_for_good = True
        self._shell.happen(stop)

    def _upgrade(self) -> None:
        task = self._shell.loop.create_task(self._upgrades.try_to_upgrade())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
