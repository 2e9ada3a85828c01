"""Tables for the tests of keys: epoch n has the root n and was made at n times 6 hours."""

from __future__ import annotations

from velocity_edge.keys.table import EpochTable
from velocity_edge.wire.messages import Epoch

DAY = 86_400.0


def root(number: int) -> bytes:
    return number.to_bytes(32, "big")


def table(*numbers: int, seal: int | None = None, every_s: float = 21_600.0) -> EpochTable:
    newest_first = sorted(numbers, reverse=True)
    epochs = tuple(Epoch(epoch=n, created_s=n * every_s, root=root(n)) for n in newest_first)
    return EpochTable(epochs, newest_first[0] if seal is None else seal)
