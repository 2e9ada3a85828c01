"""Handshakes that are not complete, as admission counts them: what they cost, and from which network they come.

A handshake counts from its admission until the client's Finished verifies. One that ends in any other way
(CONNECTION_CLOSE, an alert, an illegal frame, silence) counts until its timeout would have been over: its work was
done, and a client that makes it fail must not get the next one at once. A count of what the engine holds would drop it
with the connection.

It counts as what its TLS side cost in CPU time, in units of `FLIGHT_CPU_US` and at least one: an ML-DSA signature or a
share on P-384 costs four times a usual first flight, and the client chooses. An address that is not validated is
charged for the most expensive recent flight at once, because its hello may come later, after many more admissions.

A prefix is counted only for addresses that a token validated. Otherwise an attacker with a spoofed source address would
use up the share of its victim. There are never more entries than handshakes that were admitted and not completed, which
admission bounds; no peer can make a table larger.

No clock here: time and costs are passed in. admission.py decides what is admitted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: What counts as one handshake, in microseconds of CPU. A first flight with X25519MLKEM768 and P-256 costs 230, with
#: RSA-2048 540, with ML-DSA-65 1900 (native engine, all of it).
FLIGHT_CPU_US: Final = 500
#: No handshake counts for more. The most expensive known flight is four; a higher measured cost was a pause of this
#: process (garbage collection, a page fault), and must not shut out a whole prefix.
MAX_CPU_US: Final = 8 * FLIGHT_CPU_US
#: One flight in 64 decides by how much the expected price falls towards what flights cost now.
_FORGETS_BY: Final = 64


def prefix_of(address: bytes) -> bytes:
    """Return the network that counts as one client: /24 of IPv4 (4 bytes), /56 of IPv6 (16 bytes)."""
    return address[:3] if len(address) == 4 else address[:7]


@dataclass(slots=True, eq=False)
class Opening:
    """One handshake that was admitted."""

    #: None: the address is not validated.
    prefix: bytes | None
    until_ns: int
    counted_us: int
    used_us: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How many handshakes count at a moment, in units of `FLIGHT_CPU_US`."""

    total: int = 0
    #: Of the prefix of the new handshake.
    of_prefix: int = 0


class HalfOpen:
    """All handshakes of one worker that count."""

    def __init__(self) -> None:
        self._openings: OrderedDict[Opening, None] = OrderedDict()
        self._total_us = 0
        self._by_prefix: dict[bytes, int] = {}
        self._expected_us = FLIGHT_CPU_US

    def __len__(self) -> int:
        return len(self._openings)

    @property
    def prefixes(self) -> int:
        """How many prefixes are counted."""
        return len(self._by_prefix)

    def load(self, prefix: bytes, now_ns: int) -> Load:
        """Return what counts now. *prefix* is that of the new handshake."""
        while self._openings and (oldest := next(iter(self._openings))).until_ns <= now_ns:
            self._remove(oldest)
        of_prefix = self._by_prefix.get(prefix, 0)
        return Load(self._total_us // FLIGHT_CPU_US, of_prefix // FLIGHT_CPU_US)

    def add(self, prefix: bytes | None, until_ns: int) -> Opening:
        """Count a handshake that is admitted."""
        opening = Opening(prefix, until_ns, 0)
        self._openings[opening] = None
        self._count(opening, self._expected_us if prefix is None else FLIGHT_CPU_US)
        return opening

    def spend(self, opening: Opening, cpu_us: int) -> None:
        """Add CPU time that its TLS side has used."""
        opening.used_us = min(opening.used_us + cpu_us, MAX_CPU_US)
        self._expected_us = max(FLIGHT_CPU_US, opening.used_us, self._expected_us - self._expected_us // _FORGETS_BY)
        if opening in self._openings and opening.used_us > opening.counted_us:
            self._count(opening, opening.used_us - opening.counted_us)

    def complete(self, opening: Opening) -> None:
        """Stop counting it: the client's Finished verified."""
        if opening in self._openings:
            self._remove(opening)

    def _remove(self, opening: Opening) -> None:
        del self._openings[opening]
        self._count(opening, -opening.counted_us)

    def _count(self, opening: Opening, more_us: int) -> None:
        opening.counted_us += more_us
        self._total_us += more_us
        if opening.prefix is None:
            return
        of_prefix = self._by_prefix.get(opening.prefix, 0) + more_us
        if of_prefix:
            self._by_prefix[opening.prefix] = of_prefix
        else:
            del self._by_prefix[opening.prefix]
