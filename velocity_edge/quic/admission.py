"""Whether a new connection is let in: before any state is made for it, in front of both engines.

In this order, first match wins:

    1  a Retry token that does not verify                   Refuse INVALID_TOKEN (RFC 9000 section 8.1.2)
    2  an id of ours without a valid Retry token            Ignore: late, replayed, or of a connection that is gone
    3  max_connections reached                              Ignore
    4  draining, and no valid Retry token of ours           Ignore: steering has somebody else for it
    5  a token proved the address                           Accept, validated
    6  max_half_open reached                                Ignore
    7  over retry_threshold half-open, or XDP says so       Retry
    8  otherwise                                            Accept

A first flight costs 0.5 ms and 70 KiB, a Retry 15 us and nothing, so 7 is what a flood of spoofed Initials meets; 6
bounds what remains. A client that comes back from a Retry is let in even while draining: nobody else knows its id.

`decide` is pure; `AdmissionControl` adds what a Retry needs (an id, a sealed token). Rates per prefix are limited by
the packet program (bpf/xdp.c).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge import keys
from velocity_edge.cid import CidCodec
from velocity_edge.keys import EpochTable, KeyRing
from velocity_edge.quic import engine
from velocity_edge.quic.engine import Accept, Address, Ignore, Initial, Refuse, Retry
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.tokens import RETRY, AddressTokens, Proof

#: QUIC transport error (RFC 9000 section 20.1).
INVALID_TOKEN: Final = 0x0B


@dataclass(frozen=True, slots=True)
class AskRetry:
    """Rule 7: a Retry is due; it still needs an id and a token."""


def decide(
    initial: Initial, proof: Proof | None, owner: int | None, *, worker_id: int, limits: Limits, accepting: bool
) -> Accept | Refuse | Ignore | AskRetry:
    """Apply the rules above.

    *proof* is what the token proves, *owner* the worker that the Initial's id names (None: the client chose the id).
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
    if proof is not None:
        return Accept(original_dcid=proof.original_dcid, address_validated=True)
    if initial.half_open >= limits.max_half_open:
        return Ignore("verdict_dropped_half_open")
    if initial.must_retry or initial.half_open >= limits.retry_threshold:
        return AskRetry()
    return Accept()


class AdmissionControl:
    """The two upcalls of an engine that concern addresses: `admit` and `address_token`."""

    def __init__(
        self,
        table: EpochTable,
        node_id: int,
        worker_id: int,
        limits: Limits,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        #: False while draining.
        self.accepting = True
        self.limits = limits
        self._node_id = node_id
        self._worker_id = worker_id
        self._wall_clock = wall_clock
        self.use_keys(table)

    def use_keys(self, table: EpochTable) -> None:
        """Seal and open with another table from now on."""
        self._codec = CidCodec(keys.cid_configs(table))
        self._tokens = AddressTokens(KeyRing(table, keys.ADDRESS_TOKEN))

    def admit(self, initial: Initial) -> engine.Admission:
        """Decide about a new connection."""
        now_s = self._wall_clock()
        token = initial.token
        proof = self._tokens.check(token, initial.peer, initial.dcid, now_s) if token else None
        # The whole id, not only its trailer: by chance a client's own id has ours once in 65,536.
        owner = self._codec.open(initial.dcid)
        owner_id = owner.worker_id if owner is not None else None
        decision = decide(
            initial, proof, owner_id, worker_id=self._worker_id, limits=self.limits, accepting=self.accepting
        )
        if not isinstance(decision, AskRetry):
            return decision
        scid = self._codec.issue(self._node_id, self._worker_id)
        return Retry(scid, self._tokens.retry(initial.peer, initial.dcid, scid, now_s))

    def address_token(self, peer: Address) -> bytes:
        """Return a NEW_TOKEN token for a peer that completed a handshake."""
        return self._tokens.new_token(peer, self._wall_clock())
