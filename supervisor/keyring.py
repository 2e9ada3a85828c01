"""The node's epoch table in the supervisor's hands: read at start, stored before it is used, rotated in time.

What a table means and when a rotation is due is keys.py's; who has acknowledged it is the Node's. A rotation is stored
twice: announced (opens, does not seal), then switched. Who finds it announced after a crash goes on from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velocity_edge import keyfile, keys
from velocity_edge.cid import CidConfig
from velocity_edge.config.model import Tickets
from velocity_edge.messages import UseKeys

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Keyring:
    """The table, its file, and its ages. Wall-clock seconds, because the table outlives a boot."""

    path: Path
    table: keys.EpochTable
    fresh: bool

    @classmethod
    def open(cls, settings: Tickets, state_directory: Path, wall_s: float) -> Keyring:
        """Read the stored table, or begin one. Raises `ConfigError` when the file is damaged or not private."""
        path = settings.storage or state_directory / "tickets.json"
        table = keyfile.load(path)
        fresh = table is None
        if table is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            table = keys.first_table(os.urandom(keys.ROOT_BYTES), wall_s)
            keyfile.save(path, table)
        return cls(path, table, fresh)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The numbers in the table, newest first."""
        return tuple(epoch.epoch for epoch in self.table.epochs)

    def order(self, epochs: Collection[int], seal_with: int) -> UseKeys:
        """Return the message that gives these epochs to a worker."""
        return UseKeys([epoch for epoch in self.table.epochs if epoch.epoch in epochs], seal_with)

    def cid_configs(self) -> list[CidConfig]:
        """Return what the packet programs decode."""
        return keys.cid_configs(self.table)

    def due(self, settings: Tickets, wall_s: float, *, force: bool = False) -> bool:
        """Return whether a rotation should begin, or go on after a predecessor's death."""
        unfinished = self.epochs[0] != self.table.seal_with
        step = keys.next_step(self.table, wall_s, settings.rotate_after_s, (), force=force)
        return unfinished or step is keys.Step.ANNOUNCE

    def announce(self, settings: Tickets, wall_s: float) -> None:
        """Add an epoch, unless one is announced already, and store it."""
        if self.epochs[0] == self.table.seal_with:
            self.table = keys.announce(self.table, os.urandom(keys.ROOT_BYTES), wall_s, settings.max_age_s)
            keyfile.save(self.path, self.table)

    def sealed_with(self, epoch: int) -> None:
        """Take in that every worker seals with *epoch* now."""
        if self.table.seal_with != epoch:
            self.table = keys.switch(self.table)
            keyfile.save(self.path, self.table)

    def describe(self, wall_s: float) -> dict[str, Any]:
        """Return what `status` says: no key."""
        return {
            "seal_with": self.table.seal_with,
            "epochs": [{"epoch": e.epoch, "age_s": int(wall_s - e.created_s)} for e in self.table.epochs],
            "cid_epochs": [e.epoch for e in self.table.cid_epochs],
            "storage": str(self.path),
        }
