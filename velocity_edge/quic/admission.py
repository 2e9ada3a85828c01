"""Admission of new connections: counts handshakes, checks tokens, and does what a Retry needs (an id, a sealed token).

The rules, which need neither clock nor keys, are in admission_rules.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from velocity_edge.http.requests import Address
from velocity_edge.keys.ring import ADDRESS_TOKEN, KeyRing, cid_configs
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic import datagrams
from velocity_edge.quic.admission_rules import AskRetry, Proof, decide
from velocity_edge.quic.datagrams import Accept, Ignore, Initial, Refuse, Retry, ServerTransport
from velocity_edge.quic.half_open import HalfOpen, Load, Opening, prefix_of
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.tokens import AddressTokens
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import ReplayGuard
from velocity_edge.tls.transport import Handshake
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.counters import ADMISSION


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
        # The whole id, not only its trailer: by chance a client's own id has a valid one once in 65,536.
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
        """Count the one use of a NEW_TOKEN token that opens a connection, or whose client gets an answer."""
        if not self._used.first_use(proof.name, proof.issued_s, now_s):
            self.counters["tokens_seen_again"] += 1
            return self._decide(initial, None, None, load)
        if decision != Accept(address_validated=True):
            self.counters["tokens_not_honoured"] += 1
        return decision

    def handshake(self, policy: ServerPolicy, transport: ServerTransport) -> Handshake:
        """Return the TLS side of a connection that was admitted."""
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
