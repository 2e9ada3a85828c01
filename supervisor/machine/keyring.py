"""The node's epoch table in the supervisor's hands: read at start, stored before it is used, rotated in time.

What a table means and when a rotation is due is keys.py's; who has acknowledged it is the Node's. A rotation is stored
twice: announced (opens, does not seal), then switched. Who finds it announced after a crash goes on from there.
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
from velocity_edge.keys import file as keyfile
from velocity_edge.keys import rotation
from velocity_edge.keys.ring import cid_configs
from velocity_edge.keys.rotation import Step
from velocity_edge.keys.table import ROOT_BYTES, EpochTable, first_table
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.messages import Epoch, UseKeys

log = logging.getLogger(__name__)

#: Machines that keep time differ by less.
CLOCK_SKEW_S: Final = 60.0
#: What it means for clients when keys are lost.
LOST: Final = "sessions of before do full handshakes, and connections of before that are gone get no reset"
_WAYS_OUT: Final = (
    "a backup in its place would be right, or `tickets.on_damage: fresh`, which keeps the file aside and begins anew"
)


def key_file(settings: Tickets, state_directory: Path) -> Path:
    """Return where the keys are."""
    return settings.storage or state_directory / "tickets.json"


def check_keys(settings: Tickets, state_directory: Path) -> None:
    """Raise `ConfigError` where `Keyring.open` would for a supervisor that takes over; change nothing."""
    path = key_file(settings, state_directory)
    if keyfile.load(path) is None and key_history.load(state_directory).newest:
        raise ConfigError(f"{path}: cannot go on without the keys that the living workers use: the file is missing")


@dataclass(slots=True)
class Keyring:
    """The table, its file, and its ages.

    Seconds since 1970, because the table outlives a boot: the wall clock as it was at start, and from then on a clock
    that nobody sets (`Shell.steady_clock`). A wall clock that is set while the node runs makes no key older or younger;
    what a clock that was ahead has written counts as born when it is read.
    """

    path: Path
    table: EpochTable
    fresh: bool
    state_directory: Path | None = None
    history: KeyHistory = field(default_factory=KeyHistory)
    #: Epochs that were from the future when the file was read, and by how much at most.
    from_future: tuple[int, ...] = ()
    ahead_s: float = 0.0
    #: The file has an earlier table, from which a successor would reach this one.
    behind: bool = False
    _trouble: Trouble = field(
        default_factory=lambda: Trouble("a supervisor that comes after this one would repeat the last step")
    )

    @classmethod
    def open(cls, settings: Tickets, state_directory: Path, wall_s: float, *, living: bool = False) -> Keyring:
        """Read the stored table, or begin one. *living*: workers of an earlier supervisor serve with these keys.

        Raises `ConfigError` when the file is not private; when it is damaged, unless tickets.on_damage says to begin
        anew; and when workers live whose connections would be lost with it.
        """
        path = key_file(settings, state_directory)
        history = key_history.load(state_directory)
        reason = ""
        try:
            table = keyfile.load(path)
            if table is None and history.newest:
                reason = f"{path} is missing"
        except keyfile.DamagedKeys as error:
            if settings.on_damage == "refuse":
                raise ConfigError(f"{error}; {_WAYS_OUT}") from None
            table, reason = None, str(error)
        if reason and living:
            raise ConfigError(
                f"{path}: cannot go on without the keys that the living workers use ({reason}): put the file back, or "
                "stop these workers"
            )
        fresh = table is None
        if table is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if reason and path.exists():
                reason += f"; it is kept as {keyfile.set_aside(path)}"
            table = first_table(os.urandom(ROOT_BYTES), wall_s, history.next_number)
            keyfile.save(path, table)
        ahead = [e for e in table.epochs if e.created_s > wall_s + CLOCK_SKEW_S]
        born = rotation.born_by(table, wall_s)
        if ahead:
            # Once: the next start finds the time of this one, and the rotation that it makes due is not put off again.
            log.warning(
                "the keys of %s were made in the future, up to %.0f s ahead: the clock was wrong then, or is now; "
                "they count as made now",
                ", ".join(f"epoch {e.epoch}" for e in ahead),
                max(e.created_s for e in ahead) - wall_s,
            )
        if reason:
            log.error("the keys begin anew with epoch %d: %s; %s", table.seal_with, reason, LOST)
            history = history.began_anew(wall_s, reason)
        if history.anew_s is not None and history.anew_s > wall_s:
            history = replace(history, anew_s=wall_s)
        ring = cls(path, born, fresh, state_directory, history, behind=born != table)
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
        """Return what the packet programs decode."""
        return cid_configs(self.table)

    def due(self, settings: Tickets, now_s: float, *, force: bool = False) -> bool:
        """Return whether a rotation should begin, or go on after a predecessor's death."""
        step = rotation.next_step(self.table, now_s, settings.rotate_after_s, (), force=force)
        return bool(self.table.announced) or step is Step.ANNOUNCE

    def announce(self, settings: Tickets, now_s: float, number: int | None = None) -> int:
        """Add an epoch, unless one is announced already, and store it; return its number.

        Raises `CannotDo` while connections hold ids of an epoch whose place it needs.
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
        """Take in what the node has agreed on: which epoch seals, and whose connection IDs are still needed.

        It is so whether the file can be written or not: the file of before has all these keys, and who finds it goes
        on from there.
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
        """What `status` says of the file."""
        return self._trouble.text

    def retry(self) -> None:
        """Write what could not be written."""
        if not self.behind:
            return
        try:
            keyfile.save(self.path, self.table)
        except ConfigError as error:
            self._trouble.begins(str(error))
            return
        self.behind = False
        self._trouble.ends(f"store the keys in {self.path}")

    def _store(self, table: EpochTable) -> None:
        """Use another table, once it is on disk: nobody may hold a key that a successor would not find."""
        try:
            keyfile.save(self.path, table)
        except ConfigError as error:
            self.behind = True  # it may have come as far as the rename: the table of before should be there
            raise CannotDo(f"cannot change the keys: {error}") from None
        self.table, self.behind = table, False
        self._trouble.ends(f"store the keys in {self.path}")
        self._remember()

    def _remember(self) -> None:
        reached = self.history.reached(self.table.numbers[0])
        if self.state_directory is not None and (reached != self.history or self.fresh):
            key_history.save(self.state_directory, reached)
        self.history, self.fresh = reached, False

    def close(self, numbers: Collection[int]) -> None:
        """Have these epochs open nothing any more."""
        self._store(rotation.close(self.table, numbers))

    def merge(self, imported: Sequence[Epoch], now_s: float) -> None:
        """Have the epochs of another table open here. Raises `CannotDo` when that cannot be."""
        try:
            # The clock of the other node may have been ahead.
            self._store(rotation.born_by(rotation.merge(self.table, imported), now_s))
        except ValueError as error:
            raise CannotDo(f"cannot import: {error}") from None

    def adopt(self, number: int) -> None:
        """Announce an epoch that is here already."""
        self._store(rotation.adopt(self.table, number))
