"""The seam between an endpoint (sockets, policy, handlers) and an engine (QUIC and HTTP/3): packets and time.

An engine implements two protocols. `Datagrams` is here: whole batches in, whole batches out. `Requests`, in
velocity_edge/http/requests.py, is the other: answers to the events that `receive` and `expire` return.

An engine has no socket, no clock and no event loop: datagrams arrive in a `Batch`, `receive` returns events, `send`
fills a batch with what must leave, `next_timer_ns` says when to come back. The batch owns the packet memory, so that
the native engine's packets never become Python objects; the system calls (recvmsg with UDP_GRO, sendmsg with
UDP_SEGMENT) are methods of the batch.

The order of a turn, by the endpoint:

    batch.receive(fd, listener)            until it would block, or the batch is full
    for event in engine.receive(batch, now_ns): ...    handlers answer through `Requests`
    for owner, packet in engine.strays(): ...          to the links of other workers (handover.py)
    while engine.send(batch, now_ns): batch.transmit(fds)
    arm the timer with engine.next_timer_ns()

Rules that both engines keep, and the shared tests check:
  * An engine calls Python only through `Upcalls`, never re-enters, and survives any exception of an upcall: the
    connection concerned is closed with INTERNAL_ERROR, the error is logged once and counted. A MemoryError is raised
    to the caller.
  * Every datagram is counted under exactly one verdict: received + injected = the sum of the verdicts (counters.py).
  * Everything that a peer can make grow has a bound in `Limits`.

`now_ns` is CLOCK_MONOTONIC in nanoseconds everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from velocity_edge.http.requests import Address, Event
from velocity_edge.quic.half_open import Opening
from velocity_edge.quic.limits import Limits
from velocity_edge.tls.transport import Handshake, HandshakeTransport, TransportParameters
from velocity_edge.wire.cid import CidConfig

#: DSCP with which XDP marks an Initial that is over its prefix's limit and passes only to be answered with a Retry.
#: A sender that sets it itself gets a Retry, too.
MUST_RETRY_DSCP: Final = 0x2F


# --- datagrams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Train:
    """Datagrams of one sender in one system call: `data` cut every `segment_size` bytes (the last may be shorter)."""

    data: bytes
    segment_size: int
    peer: Address
    local: Address
    listener: int
    tos: int = 0
    #: When another worker received it (hand-over), and then it is never forwarded again; 0: one of our own sockets.
    received_ns: int = 0


class Batch(Protocol):
    """Trains in engine memory, a bounded number of them; used for both directions."""

    def receive(self, fd: int, listener: int) -> int:
        """Take trains from a UDP socket until it would block or the batch is full; return how many there are now.

        The local address comes from IP_PKTINFO, so that a wildcard socket answers from the address it was asked at
        (anycast). TOS comes from IP_RECVTOS; the segment size from UDP_GRO. Errors queued on the socket are counted.
        """

    def transmit(self, fds: Sequence[int]) -> bool:
        """Send the trains, each on the socket of its listener. False: a socket would block, the rest is kept.

        Uses UDP_SEGMENT, and single datagrams to a destination that answered EIO or EINVAL to it (counted). A
        destination that cannot be reached loses its train (counted): QUIC retransmits.
        """

    def append(self, train: Train) -> bool:
        """Add one train (hand-over, tests). False when the batch is full."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Train]: ...

    def clear(self) -> None:
        """Forget the trains."""


# --- what an engine asks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Initial:
    """The first Initial of what may become a connection (already checked: version, >= 1200 bytes, DCID >= 8)."""

    version: int
    dcid: bytes
    scid: bytes
    token: bytes
    peer: Address
    #: XDP let it pass only to be answered with a Retry.
    must_retry: bool
    #: Connections of this worker, and those of them whose handshake is not complete.
    connections: int
    half_open: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Open a connection. After a Retry, `original_dcid` is from the token, and the id of the Initial stays in use."""

    original_dcid: bytes | None = None
    #: A token validated the address: no 3x limit (RFC 9000 section 8.1).
    address_validated: bool = False
    #: How admission counts this handshake. The engine hands it on, see `ServerTransport.accepted`.
    opening: Opening | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Retry:
    """Answer with a Retry packet: `scid` is an id of this worker, `token` validates the address when it comes back."""

    scid: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with CONNECTION_CLOSE in an Initial packet (RFC 9000 section 5.2.2: CONNECTION_REFUSED, INVALID_TOKEN)."""

    error_code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """Drop it, counted under `verdict` (a name of counters.VERDICTS)."""

    verdict: str


Admission = Accept | Retry | Refuse | Ignore


class Upcalls(Protocol):
    """The only calls of an engine to Python: one per connection attempt and a few per handshake."""

    def admit(self, initial: Initial, now_ns: int) -> Admission:
        """Decide about a new connection (velocity_edge/quic/admission.py)."""

    def handshake(self, transport: ServerTransport) -> Handshake:
        """Return the TLS side of a new connection (velocity_edge/tls/handshake.py)."""

    def address_token(self, peer: Address) -> bytes:
        """Return a NEW_TOKEN token for a peer that completed a handshake."""


class ServerTransport(HandshakeTransport, TransportParameters, Protocol):
    """The transport of a handshake of a connection that was accepted."""

    @property
    def accepted(self) -> Accept:
        """What `Upcalls.admit` answered for this connection. Readable inside `Upcalls.handshake`."""


# --- what an endpoint asks of an engine -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """All that an engine must know before the first datagram."""

    worker_id: int
    node_id: int
    limits: Limits
    #: Congestion control: "cubic", "bbr" (native only) or "reno".
    congestion_control: str = "cubic"


@dataclass(frozen=True, slots=True)
class EngineKeys:
    """The node's keys that an engine needs. The first CID configuration seals; reset keys are found by config id."""

    cid_configs: list[CidConfig] = field(repr=False)
    reset_keys: dict[int, bytes] = field(repr=False)


class Datagrams(Protocol):
    """The packets and timers of one worker's QUIC connections."""

    name: str

    def batch(self) -> Batch:
        """Return a new batch of this engine's kind."""

    def use_settings(self, settings: EngineSettings) -> None:
        """Use these limits from now on, and this congestion control for new connections.

        Bounds of the worker hold at once, also for open connections. A connection keeps what its peer was told and what
        its handshake began with (`limits.PROMISED`).
        """

    def use_keys(self, keys: EngineKeys) -> None:
        """Use these keys from now on. Connections keep the ids they have."""

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        """Hand packets over to these workers; ids of other workers that decode get a stateless reset."""

    def receive(self, batch: Batch, now_ns: int) -> list[Event]:
        """Take in all trains of *batch* and clear it."""

    def strays(self) -> list[tuple[int, bytes]]:
        """Return and forget (owner's worker id, hand-over packet) of datagrams that belong to other workers."""

    def send(self, batch: Batch, now_ns: int) -> bool:
        """Fill *batch* (must be empty). False when nothing was there to send."""

    def next_timer_ns(self) -> int | None:
        """When `expire` must be called; None when there is no timer."""

    def expire(self, now_ns: int) -> list[Event]:
        """Handle what is due."""

    def connections_by_config(self) -> dict[int, int]:
        """Return CID config id -> connections that hold an id of it, where there are any. Costs nothing.

        One that holds ids of several counts for each. An id counts from when it is issued until the client has given
        it back, or the connection and its closing period are over. Ids that clients made up don't count.
        """

    def counters(self) -> dict[str, int]:
        """Return all counters of this engine since it began; names of counters.py."""
