"""Which new connections are admitted, before any state is made for them. In front of both engines. Pure.

In this order, first match wins:

    1  a Retry token that does not verify                   Refuse INVALID_TOKEN (RFC 9000 section 8.1.2)
    2  an id of this node without a valid Retry token       Ignore: late, replayed, or of a connection that ended
    3  max_connections reached                              Ignore
    4  draining, and no valid Retry token of this worker    Ignore: steering has another worker for it
    5  a token validated the address, its prefix has room   Accept, validated
    6  back from a Retry, but without room                  Ignore: the client retransmits; another Retry is useless
    7  over retry_threshold half-open, or XDP says so       Retry
    8  otherwise                                            Accept

A first flight costs 0.2 to 2 ms and 70 KiB, a Retry 15 us and no memory, so a flood of spoofed Initials meets rule 7.
What counts as half-open, and for how long, is in half_open.py: also handshakes that failed. Rule 5 divides what
`max_half_open` leaves: a /24 or /56 alone gets a tenth of it, a hundred that take all they can leave a fourteenth to
others, and a token is no way around. At `max_half_open` no prefix has room, and a new client still gets a Retry.

A NEW_TOKEN token validates an address once (single_use.py). One that was seen before, or whose prefix has no room, is
ignored. A client that comes back from a Retry is admitted even while draining: no other worker knows its id.

Rates per prefix are limited by the packet program (bpf/xdp.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from velocity_edge.quic.datagrams import Accept, Ignore, Initial, Refuse
from velocity_edge.quic.half_open import Load
from velocity_edge.quic.limits import PREFIX_SHARE, Limits

#: QUIC transport error (RFC 9000 section 20.1).
INVALID_TOKEN: Final = 0x0B
#: The first byte of a Retry token (tokens.py).
RETRY: Final = b"R"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a token proves: the peer receives at this address. After a Retry, `original_dcid` is its first id."""

    original_dcid: bytes | None = None
    #: Of a NEW_TOKEN token: its nonce, which is its name for single use, and when it was issued (wall time).
    name: bytes = field(default=b"", compare=False)
    issued_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class AskRetry:
    """Rule 7: a Retry is due; it still needs an id and a token."""


def decide(
    initial: Initial,
    proof: Proof | None,
    owner: int | None,
    load: Load,
    *,
    worker_id: int,
    limits: Limits,
    accepting: bool,
) -> Accept | Refuse | Ignore | AskRetry:
    """Apply the rules above.

    *proof* is what the token proves, *owner* the worker that the Initial's id names (None: the client chose the id),
    *load* the handshakes that count.
    """
    returned = proof is not None and proof.original_dcid is not None
    if initial.token[:1] == RETRY and not returned:
        return Refuse(INVALID_TOKEN, "the Retry token does not verify")
    if owner is not None and not (returned and owner == worker_id):
        return Ignore("verdict_dropped_foreign_id")
    if initial.connections >= limits.max_connections:
        return Ignore("verdict_dropped_connections")
    if not accepting and not returned:
        return Ignore("verdict_dropped_not_accepting")
    total = max(load.total, initial.half_open)
    if proof is not None and load.of_prefix < share_of_prefix(total, limits.max_half_open):
        return Accept(original_dcid=proof.original_dcid, address_validated=True)
    if returned:
        full = total >= limits.max_half_open
        return Ignore("verdict_dropped_half_open" if full else "verdict_dropped_prefix")
    if initial.must_retry or total >= min(limits.retry_threshold, limits.max_half_open):
        return AskRetry()
    return Accept()


def share_of_prefix(total: int, max_half_open: int) -> int:
    """Return how many handshakes one prefix may have while *total* count.

    An eighth of the whole while all is free, and the less of it the less is free, in proportion: with k prefixes that
    take what they can, 8 of 8 + k parts stay free. It is rounded up.
    """
    free = max(0, max_half_open - total)
    return -(-free * free // (PREFIX_SHARE * max_half_open)) if free else 0
