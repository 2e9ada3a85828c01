"""The keys of an epoch, all derived from its root, and sealing with them.

    root of epoch e  --HKDF-SHA256-->  tickets · address tokens (Retry, NEW_TOKEN) · resets · CID block and mask
                                       · cookies of logins and sessions

Nodes with the same table derive the same keys. Which epochs seal, open and decode is in the table (table.py). The
only other input are the random bytes of nonces, from the operating system unless the caller passes a function.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from velocity_edge.keys.table import EpochTable, config_id
from velocity_edge.wire.cid import CidConfig

TICKET: Final = b"ticket"
ADDRESS_TOKEN: Final = b"address token"
#: What a browser keeps for the OIDC middleware: of a login that has begun, and of a session.
LOGIN_COOKIE: Final = b"login cookie"
SESSION_COOKIE: Final = b"session cookie"
#: Of hashes that stand for client addresses in logs.
LOG_SALT: Final = b"log salt"
_STATELESS_RESET: Final = b"stateless reset"
_CID_BLOCK: Final = b"cid block"
_CID_MASK: Final = b"cid mask"


def derive(root: bytes, label: bytes, n_bytes: int = 32) -> bytes:
    """Return HKDF-SHA256 (RFC 5869) of a root with one of the labels above."""
    return HKDF(algorithm=hashes.SHA256(), length=n_bytes, salt=b"velocity-edge epoch key v1", info=label).derive(root)


def cid_configs(table: EpochTable) -> list[CidConfig]:
    """Return the live CID configurations; the first one issues (for `CidCodec` and the packet programs)."""
    return [
        CidConfig(config_id(epoch), derive(epoch.root, _CID_BLOCK, 16), derive(epoch.root, _CID_MASK, 16))
        for epoch in table.cid_epochs
    ]


def reset_keys(table: EpochTable) -> dict[int, bytes]:
    """Return config id -> the key of stateless reset tokens, of the epochs whose connection IDs are live."""
    return {config_id(epoch): derive(epoch.root, _STATELESS_RESET) for epoch in table.cid_epochs}


class KeyRing:
    """AES-256-GCM with the keys of one label: one epoch seals, all that are not closed open.

    A sealed text: epoch 4 | nonce 12 | ciphertext | tag 16. The nonce is random: an epoch of 6 hours at 2,000 tokens a
    second is 2^25.4 of them, far from the 2^32 after which GCM needs a new key.
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
        """Encrypt *plain* with *associated* as associated data, which `open` needs again."""
        nonce = self._random(12)
        return self._seal_name + nonce + self._seal_aead.encrypt(nonce, plain, self._seal_name + associated)

    def open(self, sealed: bytes, associated: bytes = b"") -> bytes | None:
        """Return the plain text; None for another key, an unknown epoch, or a changed text."""
        aead = self._aeads.get(sealed[:4])
        if aead is None or len(sealed) < self.OVERHEAD_BYTES:
            return None
        try:
            return aead.decrypt(sealed[4:16], sealed[16:], sealed[:4] + associated)
        except InvalidTag:
            return None

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the epoch that seals now sealed this text."""
        return sealed[:4] == self._seal_name

    @staticmethod
    def nonce_of(sealed: bytes) -> bytes:
        """Return the nonce, which identifies a sealed text."""
        return sealed[4:16]
