"""The epoch table: one random root per epoch, and every key of the node derived from it.

    root of epoch e  --HKDF-SHA256-->  tickets · address tokens (Retry, NEW_TOKEN) · resets · CID block and mask

The supervisor makes, stores and broadcasts the table (`messages.UseKeys`); all workers, and all nodes that share it,
can read each other's tickets, tokens and connection ids and answer each other's resets. A rotation takes two steps, so
that nobody meets a key it does not have: *announce* (everybody opens with it, nobody seals), and, when every worker has
acknowledged it, *switch* (it seals). Old epochs stay until what they sealed has expired.

An epoch leaves in two ways that have nothing to do with each other. What it *sealed* expires, or an operator closes it
(`tickets expire`): then it opens nothing. Its *connection IDs* stay live as long as a connection holds one, so the
table says for which epochs they decode (`cid_live`). There is room for 7, the config id is epoch % 7: a rotation waits
while its config id is taken, and connections are moved off the epochs that stand in the way (`crowding`).

Everything here is pure; roots come from the caller, keyfile.py stores them. When to rotate is configured; who holds
what and who has acknowledged it is the supervisor's.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from velocity_edge.quic.engine import EngineKeys
from velocity_edge.wire.cid import MAX_CONFIG_ID, CidConfig
from velocity_edge.wire.messages import Epoch, UseKeys

ROOT_BYTES: Final = 32
#: Epochs that stay in the table at least, and at most.
MIN_EPOCHS: Final = 4
MAX_EPOCHS: Final = 16
#: Epoch numbers have 32 bits (they are written in tickets).
MAX_EPOCH: Final = 0xFFFFFFFF
#: Config ids that connection IDs have room for.
CID_CONFIGS: Final = MAX_CONFIG_ID + 1

TICKET: Final = b"ticket"
ADDRESS_TOKEN: Final = b"address token"
_STATELESS_RESET: Final = b"stateless reset"
_CID_BLOCK: Final = b"cid block"
_CID_MASK: Final = b"cid mask"


def derive(root: bytes, label: bytes, n_bytes: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a root under one of the labels above."""
    return HKDF(algorithm=hashes.SHA256(), length=n_bytes, salt=b"velocity-edge epoch key v1", info=label).derive(root)


@dataclass(frozen=True, slots=True)
class EpochTable:
    """All epochs, newest first, and the one that seals."""

    epochs: tuple[Epoch, ...]
    seal_with: int
    #: Epochs whose connection IDs decode. Empty (a table of before this was stored): the sealing one and its neighbour.
    cid_live: tuple[int, ...] = ()
    #: Epochs that open no ticket and no token any more; they are here for their connection IDs.
    closed: tuple[int, ...] = ()
    #: The epoch that will seal when everybody has it; 0: none. None (as above): the newest, if it does not seal.
    announced: int | None = None

    def __post_init__(self) -> None:
        numbers = [epoch.epoch for epoch in self.epochs]
        if not numbers or len(numbers) > MAX_EPOCHS:
            raise ValueError(f"{len(numbers)} epochs, 1 to {MAX_EPOCHS} would be right")
        if numbers != sorted(set(numbers), reverse=True):
            raise ValueError(f"epochs {numbers} are not strictly newest first")
        if numbers[-1] < 1 or numbers[0] > MAX_EPOCH:
            raise ValueError(f"epochs {numbers} are not in 1..2^32-1")
        if self.seal_with not in numbers:
            raise ValueError(f"epoch {self.seal_with} shall seal but is not one of {numbers}")
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
        """Return what was live when two epochs always were: the one that seals, and the newest other."""
        others = [n for n in numbers if n % CID_CONFIGS != self.seal_with % CID_CONFIGS]
        return (self.seal_with, *others[:1])

    def _check(self, numbers: set[int]) -> None:
        if self.announced and (self.announced not in numbers or self.announced == self.seal_with):
            raise ValueError(f"epoch {self.announced} cannot be announced: {sorted(numbers)}, {self.seal_with} seals")
        needed = {self.seal_with, self.announced or self.seal_with}
        if not needed <= set(self.cid_live) <= numbers:
            raise ValueError(f"connection IDs of the epochs {list(self.cid_live)} cannot be live: {sorted(numbers)}")
        if len({n % CID_CONFIGS for n in self.cid_live}) < len(self.cid_live):
            raise ValueError(f"connection IDs of the epochs {list(self.cid_live)} cannot be told apart")
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


def table_of(order: UseKeys) -> EpochTable:
    """Return the table in an order; ValueError when it is not a table."""
    # What will seal next is the supervisor's business.
    return EpochTable(tuple(order.epochs), order.seal_with, tuple(order.cid_epochs), tuple(order.closed), announced=0)


def config_id(epoch: Epoch) -> int:
    """Return the QUIC-LB config id, 0..6, of connection IDs issued in an epoch."""
    return epoch.epoch % CID_CONFIGS


def cid_configs(table: EpochTable) -> list[CidConfig]:
    """Return the live CID configurations; the first one issues (for `CidCodec` and the packet programs)."""
    return [
        CidConfig(config_id(epoch), derive(epoch.root, _CID_BLOCK, 16), derive(epoch.root, _CID_MASK, 16))
        for epoch in table.cid_epochs
    ]


def engine_keys(table: EpochTable) -> EngineKeys:
    """Return what an engine needs to know of the table."""
    return EngineKeys(
        cid_configs=cid_configs(table),
        reset_keys={config_id(epoch): derive(epoch.root, _STATELESS_RESET) for epoch in table.cid_epochs},
    )


# --- sealing ---------------------------------------------------------------------------------------------------------


class KeyRing:
    """AES-256-GCM under one label's key of every epoch that is not closed: one seals, all open.

    Sealed: epoch 4 | nonce 12 | ciphertext | tag 16. The nonce is random: an epoch of 6 hours at 2,000 tokens a second
    is 2^25.4 of them, far from the 2^32 at which GCM wants a new key.
    """

    _HEAD_BYTES: Final = 16
    OVERHEAD_BYTES: Final = 32

    def __init__(self, table: EpochTable, label: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        opening = [e for e in table.epochs if e.epoch not in table.closed]
        self._aeads = {e.epoch.to_bytes(4, "big"): AESGCM(derive(e.root, label)) for e in opening}
        self._seal_name = table.seal_with.to_bytes(4, "big")
        self._seal_aead = self._aeads[self._seal_name]

    def seal(self, plain: bytes, associated: bytes = b"") -> bytes:
        """Encrypt, and bind to *associated*, which `open` must be given again."""
        nonce = self._random(12)
        return self._seal_name + nonce + self._seal_aead.encrypt(nonce, plain, self._seal_name + associated)

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes | None:
        """Return the plain text; None when it is not ours, of a forgotten epoch, or changed."""
        aead = self._aeads.get(sealed[:4])
        if aead is None or len(sealed) < self.OVERHEAD_BYTES:
            return None
        try:
            return aead.decrypt(sealed[4:16], sealed[16:], sealed[:4] + associated)
        except InvalidTag:
            return None

    @staticmethod
    def nonce_of(sealed: bytes) -> bytes:
        """Return the 12 bytes that name a sealed object."""
        return sealed[4:16]


# --- rotation --------------------------------------------------------------------------------------------------------


class Step(enum.Enum):
    """What a rotation needs next."""

    NOTHING = "nothing"
    ANNOUNCE = "announce"
    SWITCH = "switch"


def first_table(root: bytes, now_s: float, number: int = 1) -> EpochTable:
    """Return the table of a node that starts fresh. *number*: one that was not used here before."""
    return EpochTable((Epoch(epoch=number, created_s=now_s, root=root),), seal_with=number)


def born_by(table: EpochTable, now_s: float) -> EpochTable:
    """Return the table in which no epoch is from the future: such a one, made while a clock was ahead, is born now.

    Its age would be negative, and the next rotation would wait until that future has come.
    """
    return replace(table, epochs=tuple(replace(e, created_s=min(e.created_s, now_s)) for e in table.epochs))


def next_number(table: EpochTable) -> int:
    """Return the number of the next epoch: not one with the config id of the epoch that seals now."""
    number = table.epochs[0].epoch + 1
    return number if number % CID_CONFIGS != table.seal_with % CID_CONFIGS else number + 1


def bridge(table: EpochTable, other: EpochTable) -> int:
    """Return a number for an epoch that can seal between these two: in neither, and with the place of no live one."""
    live = {n % CID_CONFIGS for n in table.cid_live} | {other.seal_with % CID_CONFIGS}
    number = max(table.numbers[0], other.numbers[0]) + 1
    return next((n for n in range(number, number + CID_CONFIGS) if n % CID_CONFIGS not in live), number)


def blocking(table: EpochTable, number: int | None = None) -> int | None:
    """Return the live epoch whose config id the next one (or *number*) needs; None when it can begin."""
    wanted = (next_number(table) if number is None else number) % CID_CONFIGS
    return next((n for n in table.cid_live if n % CID_CONFIGS == wanted and n != number), None)


def crowding(table: EpochTable) -> tuple[int, ...]:
    """Return the live epochs whose config id one of the next two needs: 5 or more behind the newest.

    One rotation early, so that nobody has to hurry.
    """
    number = next_number(table)
    wanted = {number % CID_CONFIGS, (number + 1) % CID_CONFIGS}
    return tuple(n for n in _leaving(table) if n % CID_CONFIGS in wanted)


def _leaving(table: EpochTable) -> tuple[int, ...]:
    """Return the live epochs that issue no connection ID any more."""
    return tuple(n for n in table.cid_live if n not in (table.seal_with, table.announced))


def next_step(
    table: EpochTable,
    now_s: float,
    rotate_after_s: float,
    acknowledged: Collection[Collection[int]],
    force: bool = False,
) -> Step:
    """Return what is due. *acknowledged* holds, for every live worker, the epochs that it said it has."""
    if table.announced:
        return Step.SWITCH if all(table.announced in epochs for epochs in acknowledged) else Step.NOTHING
    due = force or now_s - table.sealing.created_s >= rotate_after_s
    return Step.ANNOUNCE if due else Step.NOTHING


def announce(table: EpochTable, root: bytes, now_s: float, max_age_s: float, number: int | None = None) -> EpochTable:
    """Return the table with a new epoch that opens everywhere and does not seal yet; expired epochs are gone.

    ValueError when its config id is taken: ask `blocking` first.
    """
    epoch = Epoch(epoch=next_number(table) if number is None else number, created_s=now_s, root=root)
    old = list(table.epochs)
    while len(old) >= MAX_EPOCHS:
        # The oldest that only opens: what it sealed is refused a little early. (7 at most are live.)
        old.remove(next(e for e in reversed(old) if e.epoch not in table.cid_live))
    epochs = tuple(sorted((epoch, *old), key=lambda e: -e.epoch))
    closed = tuple(n for n in table.closed if n in {e.epoch for e in epochs})
    grown = EpochTable(epochs, table.seal_with, (epoch.epoch, *table.cid_live), closed, epoch.epoch)
    return expire(grown, now_s, max_age_s)


def adopt(table: EpochTable, number: int) -> EpochTable:
    """Return the table that announces an epoch which it has already, an imported one."""
    return replace(table, cid_live=tuple({number, *table.cid_live}), announced=number)


def switch(table: EpochTable) -> EpochTable:
    """Return the table whose announced epoch seals."""
    return replace(table, seal_with=table.announced or table.seal_with, announced=0)


def stopped_s(table: EpochTable, number: int) -> float | None:
    """Return when an epoch stopped sealing: when its successor began. None: it seals, or never did."""
    if number >= table.seal_with:
        return None
    return min((e.created_s for e in table.epochs if number < e.epoch <= table.seal_with), default=None)


def expire(table: EpochTable, now_s: float, max_age_s: float) -> EpochTable:
    """Return the table without epochs that stopped sealing more than *max_age_s* ago; the newest 4 stay anyway.

    An epoch stopped sealing when its successor began, and what it sealed lives at most *max_age_s* (tickets.max_age).
    One whose connection IDs are live stays, and so does the one that seals.
    """
    kept: list[Epoch] = []
    for position, epoch in enumerate(table.epochs):
        stopped = table.epochs[position - 1].created_s if position else now_s
        if position < MIN_EPOCHS or epoch.epoch in table.cid_live or now_s - stopped <= max_age_s:
            kept.append(epoch)
    return _of(table, kept)


def close(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table in which these epochs open nothing any more; without those that nothing needs then.

    The epoch that seals, and one that is announced, are never closed.
    """
    closed = {*table.closed, *(set(numbers) & set(table.numbers))} - {table.seal_with, table.announced or 0}
    return _without_closed(replace(table, closed=tuple(closed)))


def retire(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table in which the connection IDs of these epochs do not decode any more: nobody holds one."""
    live = {*table.cid_live} - ({*numbers} - {table.seal_with, table.announced or 0})
    return _without_closed(replace(table, cid_live=tuple(live)))


def drop(table: EpochTable, numbers: Collection[int]) -> EpochTable:
    """Return the table without these epochs: none of them may seal, be announced or have live connection IDs."""
    return _of(table, [e for e in table.epochs if e.epoch not in numbers])


def _without_closed(table: EpochTable) -> EpochTable:
    return _of(table, [e for e in table.epochs if e.epoch in table.cid_live or e.epoch not in table.closed])


def _of(table: EpochTable, epochs: Sequence[Epoch]) -> EpochTable:
    numbers = {epoch.epoch for epoch in epochs}
    return replace(table, epochs=tuple(epochs), closed=tuple(n for n in table.closed if n in numbers))


def collisions(table: EpochTable, other: Sequence[Epoch]) -> tuple[int, ...]:
    """Return the numbers that stand for different roots here and there."""
    roots = {epoch.epoch: epoch.root for epoch in table.epochs}
    return tuple(sorted(e.epoch for e in other if roots.get(e.epoch, e.root) != e.root))


def merge(table: EpochTable, imported: Sequence[Epoch]) -> EpochTable:
    """Return the table with the epochs of another node that are not in it yet (`tickets import`).

    They open here; what seals stays, and their connection IDs are not ours. ValueError when there are too many; ask
    `collisions` first.
    """
    known = set(table.numbers)
    every = sorted((*table.epochs, *(e for e in imported if e.epoch not in known)), key=lambda e: -e.epoch)
    return replace(table, epochs=tuple(every))
