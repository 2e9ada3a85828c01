"""Stateless session tickets (RFC 8446 section 4.6.1): any worker of any node that shares the epoch table opens them.

    epoch 4 | nonce 12 | AES-256-GCM( suite 2 | age_add 4 | issued_ms 8 | early-data context 4
                                      | secret 1+32 or 1+48 | server name 1+n | ALPN 1+n ) 16

About 125 bytes. A ticket is valid for its cipher suite and its server name; replay.py decides whether it also opens
0-RTT. The key exchange is never skipped (psk_dhe_ke only), so a stolen ticket key does not decrypt recorded traffic.
keys/ring.py decides which epochs seal and open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from velocity_edge.keys.ring import KeyRing

_HEAD: Final = Struct(">HIQ4s")
#: A ticket from the future by more than this was sealed under a wrong clock.
CLOCK_SKEW_S: Final = 60.0
NO_EARLY_DATA: Final = b"\0\0\0\0"


@dataclass(frozen=True, slots=True)
class TicketState:
    """The content of a ticket."""

    suite_id: int
    age_add: int
    issued_s: float
    #: `EarlyData.context` of the node and revision that issued it; zeros: not for 0-RTT.
    early_data: bytes
    secret: bytes = field(repr=False)
    server_name: str
    alpn: bytes
    #: The AEAD nonce: identifies the ticket for single use.
    nonce: bytes


class Tickets:
    """Seals and opens tickets under the keys of one epoch table."""

    def __init__(self, ring: KeyRing, lifetime_s: int = 86_400) -> None:
        self._ring = ring
        #: RFC 8446 section 4.6.1: at most a week.
        self.lifetime_s = min(lifetime_s, 604_800)

    def seal(
        self,
        *,
        suite_id: int,
        secret: bytes,
        age_add: int,
        server_name: str,
        alpn: bytes,
        early_data: bytes,
        now_s: float,
    ) -> bytes:
        """Return a ticket. *now_s* is wall time."""
        name = server_name.encode("ascii")[:255]
        return self._ring.seal(
            _HEAD.pack(suite_id, age_add, int(now_s * 1000), early_data or NO_EARLY_DATA)
            + b"".join(bytes((len(part),)) + part for part in (secret, name, alpn))
        )

    def open(self, ticket: bytes, now_s: float) -> TicketState | None:
        """Return the content of a ticket, or None when no key opens it, it is too old, or from the future."""
        plain = self._ring.open(ticket)
        if plain is None:
            return None
        suite_id, age_add, issued_ms, early_data = _HEAD.unpack_from(plain)
        issued_s = issued_ms / 1000
        if not -CLOCK_SKEW_S <= now_s - issued_s <= self.lifetime_s:
            return None
        parts, at = [], _HEAD.size
        for _ in range(3):
            end = at + 1 + plain[at]
            parts.append(plain[at + 1 : end])
            at = end
        secret, name, alpn = parts
        return TicketState(
            suite_id, age_add, issued_s, early_data, secret, name.decode("ascii"), alpn, self._ring.nonce_of(ticket)
        )
