"""Whether a new connection is let in: before any state is made for it, in front of both engines.

In this order, first match wins:

    1  a Retry token that does not verify                   Refuse INVALID_TOKEN (RFC 9000 section 8.1.2)
    2  an id of ours without a valid Retry token            Ignore: late, replayed, or of a connection that is gone
    3  max_connections reached                              Ignore
    4  draining, and no valid Retry token of ours           Ignore: steering has somebody else for it
    5  a token proved the address, its prefix has room      Accept, validated
    6  back from a Retry, but without room                  Ignore: it asks again, and has no use for another Retry
    7  over retry_threshold half-open, or XDP says so       Retry
    8  otherwise                                            Accept

A first flight costs 0.2 to 2 ms and 70 KiB, a Retry 15 us and nothing, so 7 is what a flood of spoofed Initials meets.
What counts as half-open, and for how long, is half_open.py's: also what failed. 5 shares what `max_half_open` leaves:
a /24 or /56 alone gets a tenth of it, a hundred that take what they can leave a fourteenth to others, and a token is no
way around. At `max_half_open` nobody has room, and a newcomer gets a Retry still.

A NEW_TOKEN token proves an address once (single_use.py). One that was seen before, or whose prefix has no room, is as
good as none. A client that comes back from a Retry is let in even while draining: nobody else knows its id.

`decide` is pure; `AdmissionControl` adds the counting, and what a Retry needs (an id, a sealed token). Rates per prefix
are limited by the packet program (bpf/xdp.c).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge.http.requests import Address
from velocity_edge.keys.ring import ADDRESS_TOKEN, KeyRing, cid_configs
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic import datagrams
from velocity_edge.quic.datagrams import Accept, Ignore, Initial, Refuse, Retry, ServerTransport
from velocity_edge.quic.half_open import HalfOpen, Load, Opening, prefix_of
from velocity_edge.quic.limits import PREFIX_SHARE, Limits
from velocity_edge.quic.tokens import RETRY, AddressTokens, Proof
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import ReplayGuard
from velocity_edge.tls.transport import Handshake
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.counters import ADMISSION

#: QUIC transport error (RFC 9000 section 20.1).
INVALID_TOKEN: Final = 0x0B


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


class AdmissionControl:
    """The upcalls of an engine that concern new connections: `admit`, `handshake` and `address_token`."""

    def __init__(
        self,
        table: EpochTable,
        node_id: int,
        worker_id: int,
        limits: Limits,
        used: ReplayGuard,
        wall_clock: Callable[[], float] = time.time,
        cpu_clock_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        #: False while draining.
        self.accepting = True
        self.limits = limits
        self.half_open = HalfOpen()
        #: Names of counters.ADMISSION.
        self.counters = dict.fromkeys(ADMISSION, 0)
        self._used = used
        self._node_id = node_id
        self._worker_id = worker_id
        self._wall_clock = wall_clock
        self._cpu_clock_ns = cpu_clock_ns
        self.use_keys(table)

    def use_keys(self, table: EpochTable) -> None:
        """Seal and open with another table from now on."""
        self._codec = CidCodec(cid_configs(table))
        self._tokens = AddressTokens(KeyRing(table, ADDRESS_TOKEN))

    def admit(self, initial: Initial, now_ns: int) -> datagrams.Admission:
        """Decide about a new connection. *now_ns* is CLOCK_MONOTONIC."""
        now_s = self._wall_clock()
        token = initial.token
        proof = self._tokens.check(token, initial.peer, initial.dcid, now_s) if token else None
        # The whole id, not only its trailer: by chance a client's own id has ours once in 65,536.
        owner = self._codec.open(initial.dcid)
        owner_id = owner.worker_id if owner is not None else None
        prefix = prefix_of(initial.peer[0])
        load = self.half_open.load(prefix, now_ns)
        decision = self._decide(initial, proof, owner_id, load)
        if isinstance(decision, Accept | AskRetry) and proof is not None and proof.original_dcid is None:
            decision = self._use_token(decision, initial, proof, load, now_s)
        if isinstance(decision, Accept):
            until_ns = now_ns + int(self.limits.handshake_timeout_s * 1e9)
            opening = self.half_open.add(prefix if decision.address_validated else None, until_ns)
            return Accept(decision.original_dcid, decision.address_validated, opening)
        if not isinstance(decision, AskRetry):
            return decision
        scid = self._codec.issue(self._node_id, self._worker_id)
        return Retry(scid, self._tokens.retry(initial.peer, initial.dcid, scid, now_s))

    def _decide(
        self, initial: Initial, proof: Proof | None, owner: int | None, load: Load
    ) -> Accept | Refuse | Ignore | AskRetry:
        return decide(
            initial, proof, owner, load, worker_id=self._worker_id, limits=self.limits, accepting=self.accepting
        )

    def _use_token(
        self, decision: Accept | AskRetry, initial: Initial, proof: Proof, load: Load, now_s: float
    ) -> Accept | Refuse | Ignore | AskRetry:
        """Count the one use of a NEW_TOKEN token that opens a connection, or whose holder gets an answer."""
        if not self._used.first_use(proof.name, proof.issued_s, now_s):
            self.counters["tokens_seen_again"] += 1
            return self._decide(initial, None, None, load)
        if decision != Accept(address_validated=True):
            self.counters["tokens_not_honoured"] += 1
        return decision

    def handshake(self, policy: ServerPolicy, transport: ServerTransport) -> Handshake:
        """Return the TLS side of a connection that was let in."""
        opening = transport.accepted.opening
        if opening is None:
            return ServerHandshake(policy, transport, parameters=transport)
        return CountedHandshake(policy, transport, self.half_open, opening, self._cpu_clock_ns)

    def address_token(self, peer: Address) -> bytes:
        """Return a NEW_TOKEN token for a peer that completed a handshake."""
        return self._tokens.new_token(peer, self._wall_clock())


class CountedHandshake(ServerHandshake):
    """Reports its cost, and its completion, to `HalfOpen`. *cpu_clock_ns* is the CPU time of this thread."""

    def __init__(
        self,
        policy: ServerPolicy,
        transport: ServerTransport,
        half_open: HalfOpen,
        opening: Opening,
        cpu_clock_ns: Callable[[], int],
    ) -> None:
        super().__init__(policy, transport, parameters=transport)
        self._half_open = half_open
        self._opening = opening
        self._cpu_clock_ns = cpu_clock_ns

    def feed(self, level: int, message: bytes) -> int:
        """Take one whole message of this level. Return -1, or the alert to fail with."""
        begun_ns = self._cpu_clock_ns()
        result = super().feed(level, message)
        if self.done:
            self._half_open.complete(self._opening)
        else:
            self._half_open.spend(self._opening, (self._cpu_clock_ns() - begun_ns) // 1000)
        return result
