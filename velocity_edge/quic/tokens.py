"""Address validation tokens (RFC 9000 section 8.1): Retry's and NEW_TOKEN's, readable by every worker of a node.

    'R' | epoch 4 | nonce 12 | AES-256-GCM( issued_ms 8 | port 2 | original DCID 1+n | our SCID ) 16     73 bytes + ids
    'N' | epoch 4 | nonce 12 | AES-256-GCM( issued_ms 8 ) 16                                             41 bytes

The client's address is associated data: a token is valid for that address only. Retry's is also bound to the port and
to both ids, and lives for seconds; NEW_TOKEN's survives a change of port, lives for a day and is valid once on a node
(single_use.py, section 8.1.4). The first byte distinguishes them, because an invalid Retry token closes the connection
and an invalid NEW_TOKEN is ignored (section 8.1.3).

Time is wall time, so that tokens survive a restart and work on other nodes; callers pass it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from velocity_edge.http.requests import Address
from velocity_edge.keys.ring import KeyRing
from velocity_edge.quic.admission_rules import RETRY, Proof

NEW_TOKEN: Final = b"N"
#: A client answers a Retry at once; it has had 3 PTOs by then.
RETRY_LIFETIME_S: Final = 10.0
NEW_TOKEN_LIFETIME_S: Final = 86_400.0
#: Two nodes with the same table need not have exactly the same time.
CLOCK_SKEW_S: Final = 5.0

_ISSUED: Final = Struct(">Q")
_RETRY_HEAD: Final = Struct(">QHB")


class AddressTokens:
    """Makes and checks both kinds under the keys of one epoch table (label `ADDRESS_TOKEN` of keys/ring.py)."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def retry(self, peer: Address, original_dcid: bytes, scid: bytes, now_s: float) -> bytes:
        """Return the token of a Retry that names *scid* as our id. *now_s* is wall time."""
        address, port = peer
        head = _RETRY_HEAD.pack(int(now_s * 1000), port, len(original_dcid))
        return RETRY + self._ring.seal(head + original_dcid + scid, RETRY + address)

    def new_token(self, peer: Address, now_s: float) -> bytes:
        """Return a token for the next connection from the peer's address."""
        return NEW_TOKEN + self._ring.seal(_ISSUED.pack(int(now_s * 1000)), NEW_TOKEN + peer[0])

    def check(self, token: bytes, peer: Address, dcid: bytes, now_s: float) -> Proof | None:
        """Return what the token of an Initial proves; None when it proves nothing."""
        kind, (address, port) = token[:1], peer
        plain = self._ring.open(token[1:], kind + address)
        if plain is None:
            return None
        if kind == NEW_TOKEN:
            if not _fresh(plain, NEW_TOKEN_LIFETIME_S, now_s):
                return None
            return Proof(name=self._ring.nonce_of(token[1:]), issued_s=_ISSUED.unpack_from(plain)[0] / 1000)
        if kind != RETRY or not _fresh(plain, RETRY_LIFETIME_S, now_s):
            return None
        _, sealed_port, length = _RETRY_HEAD.unpack_from(plain)
        end = _RETRY_HEAD.size + length
        if sealed_port != port or plain[end:] != dcid:
            return None
        return Proof(plain[_RETRY_HEAD.size : end])


def _fresh(plain: bytes, lifetime_s: float, now_s: float) -> bool:
    issued_ms: int = _ISSUED.unpack_from(plain)[0]
    return -CLOCK_SKEW_S <= now_s - issued_ms / 1000 <= lifetime_s
