"""The epoch table: one random root per epoch, and every key of the node derived from it.

    root of epoch e  --HKDF-SHA256-->  tickets · address tokens (Retry, NEW_TOKEN) · resets · CID block and mask

The supervisor makes, stores and broadcasts the table (`messages.UseKeys`); all workers, and all nodes that share it,
can read each other's tickets, tokens and connection ids and answer each other's resets. A rotation takes two steps, so
that nobody meets a key it does not have: *announce* (everybody opens with it, nobody seals), and, when every worker has
acknowledged it, *switch* (it seals). Old epochs stay until what they sealed has expired.

Connection IDs have room for 7 epochs: the config id is epoch % 7, and two are live at once. Everything here is pure;
roots come from the caller, keyfile.py stores them. When to rotate is configured, who acknowledges is the supervisor's.
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

from velocity_edge.cid import MAX_CONFIG_ID, CidConfig
from velocity_edge.messages import Epoch, UseKeys
from velocity_edge.quic.engine import EngineKeys

ROOT_BYTES: Final = 32
#: Epochs that stay in the table at least, and at most.
MIN_EPOCHS: Final = 4
MAX_EPOCHS: Final = 16
#: CID configurations that engines and packet programs know at a time.
LIVE_CID_EPOCHS: Final = 2

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

    def __post_init__(self) -> None:
        numbers = [epoch.epoch for epoch in self.epochs]
        if not numbers or len(numbers) > MAX_EPOCHS:
            raise ValueError(f"{len(numbers)} epochs, 1 to {MAX_EPOCHS} would be right")
        if numbers != sorted(set(numbers), reverse=True):
            raise ValueError(f"epochs {numbers} are not strictly newest first")
        if numbers[-1] < 1 or numbers[0] > 0xFFFFFFFF:
            raise ValueError(f"epochs {numbers} are not in 1..2^32-1")
        if self.seal_with not in numbers:
            raise ValueError(f"epoch {self.seal_with} shall seal but is not one of {numbers}")
        if any(len(epoch.root) != ROOT_BYTES for epoch in self.epochs):
            raise ValueError(f"a root does not have {ROOT_BYTES} bytes")

    @property
    def sealing(self) -> Epoch:
        """The epoch that seals."""
        return next(epoch for epoch in self.epochs if epoch.epoch == self.seal_with)

    @property
    def cid_epochs(self) -> tuple[Epoch, ...]:
        """The epochs under which connection IDs are live; the first one issues.

        Beside the sealing one it is the newest other: announced but not yet sealing, or the one that sealed before.
        """
        others = [e for e in self.epochs if e is not self.sealing and config_id(e) != config_id(self.sealing)]
        return (self.sealing, *others[: LIVE_CID_EPOCHS - 1])

    def order(self) -> UseKeys:
        """Return the message that carries this table."""
        return UseKeys(epochs=list(self.epochs), seal_with=self.seal_with)


def table_of(order: UseKeys) -> EpochTable:
    """Return the table in an order; ValueError when it is not a table."""
    return EpochTable(tuple(order.epochs), order.seal_with)


def config_id(epoch: Epoch) -> int:
    """Return the QUIC-LB config id, 0..6, of connection IDs issued in an epoch."""
    return epoch.epoch % (MAX_CONFIG_ID + 1)


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
    """AES-256-GCM under one label's key of every epoch: one seals, all open.

    Sealed: epoch 4 | nonce 12 | ciphertext | tag 16. The nonce is random: an epoch of 6 hours at 2,000 tokens a second
    is 2^25.4 of them, far from the 2^32 at which GCM wants a new key.
    """

    _HEAD_BYTES: Final = 16
    OVERHEAD_BYTES: Final = 32

    def __init__(self, table: EpochTable, label: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._aeads = {e.epoch.to_bytes(4, "big"): AESGCM(derive(e.root, label)) for e in table.epochs}
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


def first_table(root: bytes, now_s: float) -> EpochTable:
    """Return the table of a node that starts fresh."""
    return EpochTable((Epoch(epoch=1, created_s=now_s, root=root),), seal_with=1)


def next_step(
    table: EpochTable,
    now_s: float,
    rotate_after_s: float,
    acknowledged: Collection[Collection[int]],
    force: bool = False,
) -> Step:
    """Return what is due. *acknowledged* holds, for every live worker, the epochs that it said it has."""
    newest = table.epochs[0].epoch
    if newest != table.seal_with:
        return Step.SWITCH if all(newest in epochs for epochs in acknowledged) else Step.NOTHING
    due = force or now_s - table.sealing.created_s >= rotate_after_s
    return Step.ANNOUNCE if due else Step.NOTHING


def announce(table: EpochTable, root: bytes, now_s: float, max_age_s: float) -> EpochTable:
    """Return the table with a new epoch that opens everywhere and does not seal yet; expired epochs are gone."""
    epoch = Epoch(epoch=table.epochs[0].epoch + 1, created_s=now_s, root=root)
    return expire(replace(table, epochs=(epoch, *table.epochs[: MAX_EPOCHS - 1])), now_s, max_age_s)


def switch(table: EpochTable) -> EpochTable:
    """Return the table whose newest epoch seals."""
    return replace(table, seal_with=table.epochs[0].epoch)


def expire(table: EpochTable, now_s: float, max_age_s: float) -> EpochTable:
    """Return the table without epochs that stopped sealing more than *max_age_s* ago; the newest 4 stay anyway.

    An epoch stopped sealing when its successor began, and what it sealed lives at most *max_age_s* (tickets.max_age).
    """
    kept: list[Epoch] = []
    for position, epoch in enumerate(table.epochs):
        stopped_s = kept[-1].created_s if kept else now_s
        live_cid = epoch in table.cid_epochs
        if position < MIN_EPOCHS or live_cid or now_s - stopped_s <= max_age_s:
            kept.append(epoch)
    return replace(table, epochs=tuple(kept))


def merge(table: EpochTable, imported: Sequence[Epoch]) -> EpochTable:
    """Return the table with the epochs of another node that are not in it yet (`tickets import`); same seal."""
    known = {epoch.epoch for epoch in table.epochs}
    every = sorted((*table.epochs, *(e for e in imported if e.epoch not in known)), key=lambda e: -e.epoch)
    return replace(table, epochs=tuple(every))
