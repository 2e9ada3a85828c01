"""Stateless resets (RFC 9000 section 10.3): how a node ends a connection of which it has no state.

The token of a connection ID is HMAC-SHA256(reset key of the id's configuration, id), cut to 16 bytes. It depends on
nothing that a worker holds, so any worker of a node, and its successor after a crash, answers for any id of the node.
demux.py decides when a reset may be sent; the native engine computes the same token in C.

Short because it is one packet format that both engines, the client and demux.py share.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

TOKEN_LENGTH = 16
#: With ids of 20 bytes no genuine short-header packet is shorter than 41 bytes, so a reset of 41 to 43 bytes is not
#: conspicuous, and it is always shorter than what it answers: two nodes cannot reset each other without end (10.3.3).
SHORTEST_RESET = 41
LONGEST_RESET = 43


def reset_token(reset_keys: Mapping[int, bytes], cid: bytes) -> bytes | None:
    """Return the 16-byte token of *cid*, or None when there is no key for its configuration."""
    key = reset_keys.get(cid[0] >> 5) if cid else None
    return hmac.digest(key, cid, hashlib.sha256)[:TOKEN_LENGTH] if key is not None else None


def reset_length(trigger_length: int) -> int | None:
    """Return how long the reset for a datagram of this length is, or None when that is too short to be answered."""
    length = min(trigger_length - 1, LONGEST_RESET)
    return length if length >= SHORTEST_RESET else None


def build_reset(token: bytes, length: int, random_bytes: Callable[[int], bytes]) -> bytes:
    """Return a stateless reset of *length* bytes: it looks like a short-header packet and ends in the token."""
    noise = bytearray(random_bytes(length - TOKEN_LENGTH))
    noise[0] = noise[0] & 0x3F | 0x40
    return bytes(noise) + token
