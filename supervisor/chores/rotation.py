"""Rotates the epoch table, by the clock or when an operator asks; between the keyring and the Node.

By the clock: when the sealing epoch is old enough, a new one begins. When connections use connection IDs of an epoch
whose place the next epoch or the one after it needs, they are asked to move, spread over time. A rotation that still
has no place waits, and `status` says so (`waits_for`). Waiting loses nothing: the sealing epoch goes on sealing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from supervisor.machine.keyring import CLOCK_SKEW_S
from supervisor.node.epochs import connections_by_epoch
from supervisor.node.happenings import MoveFrom, UseEpochs
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge.errors import CannotDo
from velocity_edge.keys import rotation

log = logging.getLogger("supervisor")

#: How often the age of the sealing key is checked; ages are hours.
_LOOK_S: Final = 30.0
#: Moving begins one rotation before the place is needed. A tenth of the time between two rotations leaves the slowest
#: client nine tenths; ten minutes are enough for any number of clients.
_MOST_SPREAD_S: Final = 600.0


class Rotation:
    """Rotates the keys of one node."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._clock_ahead_s = 0.0

    def begin(self, number: int | None = None) -> None:
        """Begin a rotation, or continue the one that an earlier supervisor began. Raises `CannotDo`."""
        shell = self._shell
        self.refuse()
        epoch = shell.keyring.announce(shell.active.config.tickets, shell.steady_clock(), number)
        self.use_table(epoch)

    def refuse(self) -> None:
        """Raise `CannotDo` while the keys cannot be changed."""
        node = self._shell.node
        if node.key_change:
            raise CannotDo("cannot rotate keys: a rotation is under way")
        if node.state in (NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo("cannot rotate keys: the node is stopping")

    def use_table(self, seal_with: int | None = None) -> None:
        """Give all workers the table of the keyring, then seal with this epoch (none: the same as before)."""
        table = self._shell.keyring.table
        self._shell.happen(UseEpochs(table.numbers, seal_with or self._shell.node.seal_with, table.closed))

    def move(self, epochs: tuple[int, ...], spread_s: float) -> None:
        """Have connections leave the connection IDs of these epochs. Raises `CannotDo`."""
        self._shell.happen(MoveFrom(epochs, spread_s))

    def connections(self) -> dict[int, int]:
        """Return epoch -> connections that use its connection IDs, for the epochs whose connection IDs decode."""
        node = self._shell.node
        return connections_by_epoch(node.cid_epochs, node.workers.values())

    @property
    def waits_for(self) -> int | None:
        """The epoch whose connection IDs delay the next epoch, if one is due."""
        return waits_for(self._shell)

    async def in_time(self) -> None:
        """Check again and again."""
        while True:
            node = self._shell.node
            if node.state in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED) and not node.key_change:
                try:
                    self.look()
                except CannotDo as error:
                    log.error("%s", error)
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Rotate if it is due, and make room for later rotations."""
        shell = self._shell
        settings = shell.active.config.tickets
        table, held = shell.keyring.table, self.connections()
        crowded = {epoch for epoch in rotation.crowding(table) if held.get(epoch)}
        if crowded:
            if not crowded <= shell.node.moving:
                log.info(
                    "connections on the epochs %s are asked to move: a later epoch needs their place", sorted(crowded)
                )
            self.move(tuple(sorted(crowded)), min(settings.rotate_after_s / 10, _MOST_SPREAD_S))
        self._log_clock_changes()
        if shell.keyring.due(settings, shell.steady_clock()) and self.waits_for is None:
            self.begin()

    def _log_clock_changes(self) -> None:
        """Log that the wall clock was set: ages of keys are not affected, times in tickets are."""
        ahead_s = self._shell.wall_clock() - self._shell.steady_clock()
        if abs(ahead_s - self._clock_ahead_s) > CLOCK_SKEW_S:
            log.warning(
                "the clock of this machine was set by %+.0f s while the node runs: ages of keys are not affected; "
                "sessions and tokens whose time is now in the future, or too old, are not accepted",
                ahead_s - self._clock_ahead_s,
            )
            self._clock_ahead_s = ahead_s


def waits_for(shell: Shell) -> int | None:
    """Return the epoch that delays a rotation that is due: connections use its connection IDs."""
    keyring = shell.keyring
    if keyring.table.announced or not keyring.due(shell.active.config.tickets, shell.steady_clock()):
        return None
    return rotation.blocking(keyring.table)
