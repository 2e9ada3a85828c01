"""The node's epoch table: read at start, stored before it is used, rotated in time.

The table is kept in a `KeySource` (velocity_edge/keys/source.py). Its meaning, and when a rotation is due, are in
velocity_edge/keys; which workers have acknowledged it is known to the Node. A rotation is stored twice: announced
(opens, does not seal), then switched. A supervisor that finds it announced after a crash continues from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from supervisor.machine import key_history
from supervisor.machine.kept import Trouble
from supervisor.machine.key_history import KeyHistory
from velocity_edge.config.tickets import Tickets
from velocity_edge.errors import CannotDo, ConfigError
from velocity_edge.keys import rotation
from velocity_edge.keys.document import DamagedKeys
from velocity_edge.keys.file import FileKeySource
from velocity_edge.keys.ring import cid_configs
from velocity_edge.keys.rotation import Step
from velocity_edge.keys.source import KeySource
from velocity_edge.keys.table import ROOT_BYTES, EpochTable, first_table
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.messages import Epoch, UseKeys

log = logging.getLogger(__name__)

#: Clocks that are synchronized (NTP) differ by less.
CLOCK_SKEW_S: Final = 60.0
#: What clients notice when keys are lost.
LOST: Final = "existing sessions fall back to a full handshake, and lost connections get no stateless reset"
_WAYS_OUT: Final = (
    "put a backup in its place, or configure `tickets.on_damage: fresh`, which sets the file aside and makes new keys"
)


def key_source(settings: Tickets, state_directory: Path) -> KeySource:
    """Return the configured source: a file."""
    return FileKeySource(settings.storage or state_directory / "tickets.json")


def check_keys(settings: Tickets, state_directory: Path) -> None:
    """Raise `ConfigError` where `Keyring.open` would for a supervisor that takes over; change nothing."""
    source = key_source(settings, state_directory)
    if source.load() is None and key_history.load(state_directory).newest:
        raise ConfigError(f"{source.name}: cannot go on without the keys that running workers use: they are missing")


@dataclass(slots=True)
class Keyring:
    """The table, its source, and the ages of its epochs.

    Times are seconds since 1970, because the table outlives a boot: the wall clock at the start, and from then on a
    monotonic clock (`Shell.steady_clock`). Setting the wall clock while the node runs makes no key older or younger; an
    epoch that was made while a clock was ahead counts as made when it is read.
    """

    source: KeySource
    table: EpochTable
    fresh: bool
    state_directory: Path | None = None
    history: KeyHistory = field(default_factory=KeyHistory)
    #: Epochs whose time was in the future when they were read, and by how much at most.
    from_future: tuple[int, ...] = ()
    ahead_s: float = 0.0
    #: An earlier table is stored, from which a successor would reach this one.
    behind: bool = False
    _trouble: Trouble = field(default_factory=lambda: Trouble("the next supervisor would repeat the last step"))

    @classmethod
    def open(cls, settings: Tickets, state_directory: Path, wall_s: float, *, living: bool = False) -> Keyring:
        """Read the stored table, or make a new one. *living*: workers of an earlier supervisor serve with these keys.

        Raises `ConfigError` when the file is not private; when it is damaged, unless tickets.on_damage asks for new
        keys; and when the connections of running workers would be lost with it.
        """
        source = key_source(settings, state_directory)
        history = key_history.load(state_directory)
        reason = ""
        try:
            table = source.load()
            if table is None and history.newest:
                reason = f"{source.name} is missing"
        except DamagedKeys as error:
            if settings.on_damage == "refuse":
                raise ConfigError(f"{error}; {_WAYS_OUT}") from None
            table, reason = None, str(error)
        if reason and living:
            raise ConfigError(
                f"{source.name}: cannot go on without the keys that running workers use ({reason}): put the file back, "
                "or stop these workers"
            )
        fresh = table is None
        if table is None:
            if reason and (aside := source.set_aside()):
                reason += f"; it is kept as {aside}"
            table = first_table(os.urandom(ROOT_BYTES), wall_s, history.next_number)
            source.store(table)
        ahead = [e for e in table.epochs if e.created_s > wall_s + CLOCK_SKEW_S]
        born = rotation.born_by(table, wall_s)
        if ahead:
            # Logged once: the corrected times are stored, so the next start does not postpone the rotation again.
            log.warning(
                "the keys of %s have a time in the future, up to %.0f s ahead: the clock was wrong then, or is now; "
                "they count as made now",
                ", ".join(f"epoch {e.epoch}" for e in ahead),
                max(e.created_s for e in ahead) - wall_s,
            )
        if reason:
            log.error("made new keys, starting with epoch %d: %s; %s", table.seal_with, reason, LOST)
            history = history.began_anew(wall_s, reason)
        if history.anew_s is not None and history.anew_s > wall_s:
            history = replace(history, anew_s=wall_s)
        ring = cls(source, born, fresh, state_directory, history, behind=born != table)
        ring.from_future = tuple(e.epoch for e in ahead)
        ring.ahead_s = max((e.created_s for e in ahead), default=wall_s) - wall_s
        ring.retry()
        ring._remember()
        return ring

    @property
    def epochs(self) -> tuple[int, ...]:
        """The numbers in the table, newest first."""
        return self.table.numbers

    def order(self, epochs: Collection[int], seal_with: int) -> UseKeys:
        """Return the message that gives these epochs to a worker."""
        table = self.table
        return UseKeys(
            [epoch for epoch in table.epochs if epoch.epoch in epochs],
            seal_with,
            [epoch for epoch in table.cid_live if epoch in epochs],
            [epoch for epoch in table.closed if epoch in epochs],
        )

    def cid_configs(self) -> list[CidConfig]:
        """Return the CID configurations that the packet programs decode."""
        return cid_configs(self.table)

    def due(self, settings: Tickets, now_s: float, *, force: bool = False) -> bool:
        """Return whether a rotation should begin, or continue after the death of an earlier supervisor."""
        step = rotation.next_step(self.table, now_s, settings.rotate_after_s, (), force=force)
        return bool(self.table.announced) or step is Step.ANNOUNCE

    def announce(self, settings: Tickets, now_s: float, number: int | None = None) -> int:
        """Add an epoch, unless one is announced already, and store it; return its number.

        Raises `CannotDo` while connections hold ids of an epoch whose config id it needs.
        """
        table = self.table
        if table.announced:
            return table.announced
        if (old := rotation.blocking(table, number)) is not None:
            wanted = rotation.next_number(table) if number is None else number
            raise CannotDo(
                f"cannot rotate keys: epoch {wanted} needs the connection IDs of epoch {old}, which are in use; "
                f"`velocity-edge tickets list` shows by how many connections, `tickets expire --epoch {old}` moves them"
            )
        self._store(rotation.announce(table, os.urandom(ROOT_BYTES), now_s, settings.max_age_s, number))
        return self.table.announced or 0

    def follow(self, seal_with: int, cid_epochs: Collection[int]) -> None:
        """Apply what the node has agreed on: which epoch seals, and whose connection IDs are still needed.

        It applies whether it can be stored or not: the table that is stored has all these keys, and a supervisor that
        reads it continues from there.
        """
        table = self.table
        if table.seal_with != seal_with and table.announced == seal_with:
            table = rotation.switch(table)
        if gone := set(table.cid_live) - {*cid_epochs, table.announced}:
            table = rotation.retire(table, gone)
        if table != self.table:
            self.table, self.behind = table, True
            self.retry()
            self._remember()

    @property
    def problem(self) -> str:
        """What `status` reports about the storage; empty when it works."""
        return self._trouble.text

    def retry(self) -> None:
        """Store again what could not be stored."""
        if not self.behind:
            return
        try:
            self.source.store(self.table)
        except ConfigError as error:
            self._trouble.begins(str(error))
            return
        self.behind = False
        self._trouble.ends(f"store the keys in {self.source.name}")

    def _store(self, table: EpochTable) -> None:
        """Use another table once it is stored: no worker may hold a key that a successor would not find."""
        try:
            self.source.store(table)
        except ConfigError as error:
            self.behind = True  # either table may be stored now, and it should be the one in use
            raise CannotDo(f"cannot change the keys: {error}") from None
        self.table, self.behind = table, False
        self._trouble.ends(f"store the keys in {self.source.name}")
        self._remember()

    def _remember(self) -> None:
        reached = self.history.reached(self.table.numbers[0])
        if self.state_directory is not None and (reached != self.history or self.fresh):
            key_history.save(self.state_directory, reached)
        self.history, self.fresh = reached, False

    def close(self, numbers: Collection[int]) -> None:
        """Stop opening what these epochs sealed."""
        self._store(rotation.close(self.table, numbers))

    def merge(self, imported: Sequence[Epoch], now_s: float) -> None:
        """Open with the epochs of another table, too. Raises `CannotDo` when they do not fit."""
        try:
            # The clock of the other node may have been ahead.
            self._store(rotation.born_by(rotation.merge(self.table, imported), now_s))
        except ValueError as error:
            raise CannotDo(f"cannot import: {error}") from None

    def adopt(self, number: int) -> None:
        """Announce an epoch that is already in the table."""
        self._store(rotation.adopt(self.table, number))
