"""The epoch table: one random root per epoch; which epoch seals, which open, and whose connection IDs decode.

The supervisor makes, stores and broadcasts the table (`messages.UseKeys`). All workers, and all nodes that share it,
can read each other's tickets, tokens and connection IDs and answer each other's stateless resets.

An epoch ends in two independent ways. What it *sealed* expires, or an operator closes it (`tickets expire`): then it
opens nothing (`closed`). Its *connection IDs* stay live as long as a connection holds one, so the table says for which
epochs they decode (`cid_live`). There is room for 7, as the config id is epoch % 7.

This file is pure: it checks that a table is consistent. The keys of an epoch are derived in ring.py, rotations are in
rotation.py, storage in file.py. When to rotate is configured; which worker has which table is known to the supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from velocity_edge.wire.cid import MAX_CONFIG_ID
from velocity_edge.wire.messages import Epoch, UseKeys

ROOT_BYTES: Final = 32
#: Epochs that stay in the table at least, and at most.
MIN_EPOCHS: Final = 4
MAX_EPOCHS: Final = 16
#: Epoch numbers have 32 bits (they are written in tickets).
MAX_EPOCH: Final = 0xFFFFFFFF
#: Config ids that connection IDs have room for.
CID_CONFIGS: Final = MAX_CONFIG_ID + 1


@dataclass(frozen=True, slots=True)
class EpochTable:
    """All epochs, newest first, and the state of each."""

    epochs: tuple[Epoch, ...]
    seal_with: int
    #: Epochs whose connection IDs decode. Empty (from an older version): the sealing one and its neighbour.
    cid_live: tuple[int, ...] = ()
    #: Epochs that no longer open tickets and tokens; they stay for their connection IDs.
    closed: tuple[int, ...] = ()
    #: The epoch that seals once all workers have it; 0: none. None (from an older version): the newest unless it seals.
    announced: int | None = None

    def __post_init__(self) -> None:
        numbers = [epoch.epoch for epoch in self.epochs]
        if not numbers or len(numbers) > MAX_EPOCHS:
            raise ValueError(f"{len(numbers)} epochs, expected 1 to {MAX_EPOCHS}")
        if numbers != sorted(set(numbers), reverse=True):
            raise ValueError(f"epochs {numbers} are not strictly newest first")
        if numbers[-1] < 1 or numbers[0] > MAX_EPOCH:
            raise ValueError(f"epochs {numbers} are not in 1..2^32-1")
        if self.seal_with not in numbers:
            raise ValueError(f"epoch {self.seal_with} seals but is not one of {numbers}")
        if any(len(epoch.root) != ROOT_BYTES for epoch in self.epochs):
            raise ValueError(f"a root does not have {ROOT_BYTES} bytes")
        announced = self.announced
        if announced is None:
            announced = numbers[0] if numbers[0] > self.seal_with else 0
        object.__setattr__(self, "announced", announced)
        live = self.cid_live or self._neighbours(numbers)
        object.__setattr__(self, "cid_live", tuple(sorted(live, reverse=True)))
        object.__setattr__(self, "closed", tuple(sorted(self.closed, reverse=True)))
        self._check(set(numbers))

    def _neighbours(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the live epochs of an older version, which had two: the sealing one, and the newest other."""
        others = [n for n in numbers if n % CID_CONFIGS != self.seal_with % CID_CONFIGS]
        return (self.seal_with, *others[:1])

    def _check(self, numbers: set[int]) -> None:
        if self.announced and (self.announced not in numbers or self.announced == self.seal_with):
            raise ValueError(f"epoch {self.announced} cannot be announced: {sorted(numbers)}, {self.seal_with} seals")
        needed = {self.seal_with, self.announced or self.seal_with}
        if not needed <= set(self.cid_live) <= numbers:
            raise ValueError(f"connection IDs of the epochs {list(self.cid_live)} cannot be live: {sorted(numbers)}")
        if len({n % CID_CONFIGS for n in self.cid_live}) < len(self.cid_live):
            raise ValueError(f"connection IDs of the epochs {list(self.cid_live)} have the same config id")
        if not set(self.closed) <= numbers - needed:
            raise ValueError(f"the epochs {list(self.closed)} cannot be closed: {sorted(numbers)}")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the epochs, newest first."""
        return tuple(epoch.epoch for epoch in self.epochs)

    @property
    def sealing(self) -> Epoch:
        """The epoch that seals."""
        return next(epoch for epoch in self.epochs if epoch.epoch == self.seal_with)

    @property
    def cid_epochs(self) -> tuple[Epoch, ...]:
        """The epochs under which connection IDs are live; the first one issues."""
        live = set(self.cid_live) - {self.seal_with}
        return (self.sealing, *(epoch for epoch in self.epochs if epoch.epoch in live))

    def order(self) -> UseKeys:
        """Return the message that carries this table."""
        return UseKeys(list(self.epochs), self.seal_with, list(self.cid_live), list(self.closed))


def first_table(root: bytes, now_s: float, number: int = 1) -> EpochTable:
    """Return the first table of a node. *number*: one that the node has not used before."""
    return EpochTable((Epoch(epoch=number, created_s=now_s, root=root),), seal_with=number)


def table_of(order: UseKeys) -> EpochTable:
    """Return the table in an order. Raises `ValueError` when it is inconsistent."""
    # A worker need not know which epoch will seal next.
    return EpochTable(tuple(order.epochs), order.seal_with, tuple(order.cid_epochs), tuple(order.closed), announced=0)


def config_id(epoch: Epoch) -> int:
    """Return the QUIC-LB config id, 0..6, of connection IDs issued in an epoch."""
    return epoch.epoch % CID_CONFIGS
