"""Sealing for parts of a worker that outlive a key rotation: it follows the node's epoch table.

Whoever keeps a `Sealer` seals with the present epoch and opens what any epoch sealed that is not closed, without being
told of rotations. Keys of different labels do not open each other's texts (ring.py). What expires, and when, is
decided by the caller: a text opens as long as the table has its epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from velocity_edge.keys.ring import KeyRing
from velocity_edge.keys.table import EpochTable


@dataclass(frozen=True, slots=True)
class Opened:
    """The plain text of a sealed one. `current`: the epoch that seals now sealed it; otherwise it ends with its key."""

    plain: bytes
    current: bool


class Sealer:
    """The key rings of one worker, by label, for the table that it has now."""

    def __init__(self, table: EpochTable | None = None) -> None:
        """Without a *table* nothing can be sealed until `use`."""
        self._table = table
        self._rings: dict[bytes, KeyRing] = {}

    def use(self, table: EpochTable) -> None:
        """Seal and open with this table from now on."""
        self._table = table
        self._rings.clear()

    def seal(self, label: bytes, plain: bytes, associated: bytes = b"") -> bytes:
        """Encrypt *plain* for one purpose, the *label*. Raises `RuntimeError` when there are no keys yet."""
        return self._ring(label).seal(plain, associated)

    def open(self, label: bytes, sealed: bytes, associated: bytes = b"") -> Opened | None:
        """Return the plain text; None for another label or key, another *associated*, or a changed text."""
        ring = self._ring(label)
        plain = ring.open(sealed, associated)
        return None if plain is None else Opened(plain, ring.is_current(sealed))

    def _ring(self, label: bytes) -> KeyRing:
        ring = self._rings.get(label)
        if ring is None:
            if self._table is None:
                raise RuntimeError("no keys: UseKeys comes before the first request")
            ring = self._rings[label] = KeyRing(self._table, label)
        return ring
