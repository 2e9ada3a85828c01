"""The seam between an endpoint (sockets, policy, handlers) and an engine (QUIC and HTTP/3).

Whole batches in, whole batches out. An engine has no socket, no clock and no event loop: datagrams arrive in a `Batch`,
`receive` returns what a handler must know (one event per handshake, request or body chunk, never one per packet),
`send` fills a batch with what must leave, `next_timer_ns` says when to come back. The batch owns the packet memory, so
that the native engine's packets never become Python objects; the system calls (recvmsg with UDP_GRO, sendmsg with
UDP_SEGMENT) are methods of the batch.

The order of a turn, by the endpoint:

    batch.receive(fd, listener)            until it would block, or the batch is full
    for event in engine.receive(batch, now_ns): ...    handlers answer with respond(), write(), credit(), reset()
    for owner, packet in engine.strays(): ...          to the links of other workers (handover.py)
    while engine.send(batch, now_ns): batch.transmit(fds)
    arm the timer with engine.next_timer_ns()

Rules that both engines keep, and the shared tests check:
  * An engine calls Python only through `Upcalls`, never re-enters, and survives whatever an upcall raises: the
    connection concerned is closed with INTERNAL_ERROR, the error is logged once and counted. A MemoryError is raised
    to the caller.
  * A stream or connection handle is an int that is never used twice. An answer to one that is gone returns False.
  * Every datagram is counted under exactly one verdict: received + injected = the sum of the verdicts (counters.py).
  * Everything that a peer can make grow has a bound in `Limits`.

`now_ns` is CLOCK_MONOTONIC in nanoseconds everywhere.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from velocity_edge.quic.half_open import Opening
from velocity_edge.quic.limits import Limits
from velocity_edge.wire.cid import CidConfig

#: An address as the engines see it: packed IPv4 (4 bytes) or IPv6 (16 bytes, never IPv4-mapped), and a port. Of a
#: link-local one (fe80::/10) bytes 4 to 7, zero on the wire, are the index of its interface, as BSD kernels keep it:
#: two interfaces can have the same neighbour, and an answer must leave by the right one (RFC 4007).
Address = tuple[bytes, int]
Headers = Sequence[tuple[bytes, bytes]]

#: DSCP with which XDP marks an Initial that is over its prefix's limit and passes only to be answered with a Retry.
#: Whoever sets it from outside gets what it asks for: a Retry.
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


# --- events ----------------------------------------------------------------------------------------------------------


class EventKind(enum.IntEnum):
    """What `Event.kind` can be; the index into an endpoint's table of handlers."""

    HANDSHAKE_COMPLETED = 0
    REQUEST_RECEIVED = 1
    BODY_RECEIVED = 2
    STREAM_WRITABLE = 3
    STREAM_CLOSED = 4
    CONNECTION_CLOSED = 5


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The client's Finished verified."""

    connection: int
    peer: Address
    alpn: str
    group: int
    cipher_suite: int
    #: SignatureScheme of the server's CertificateVerify; 0 when resumed.
    signature_scheme: int
    server_name: str
    resumed: bool
    early_data_accepted: bool
    duration_ns: int
    kind: int = EventKind.HANDSHAKE_COMPLETED


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A complete, valid header section. `headers` are the fields without the pseudo-headers, names in lower case."""

    connection: int
    stream: int
    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Headers
    #: No body follows.
    fin: bool
    #: It arrived in 0-RTT and may be a replay (RFC 8470).
    early: bool = False
    #: The fields are more than `Limits.max_field_section_bytes`, and not here; nor are scheme, authority and path.
    fields_too_large: bool = False
    kind: int = EventKind.REQUEST_RECEIVED


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """Bytes of a request body. The peer gets credit for them only by `Engine.credit`: that is the back-pressure."""

    stream: int
    data: bytes
    fin: bool
    kind: int = EventKind.BODY_RECEIVED


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """What `write` had buffered has fallen below `Limits.send_low_bytes`."""

    stream: int
    kind: int = EventKind.STREAM_WRITABLE


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The stream is over before or after the answer; `complete` when the whole answer was acknowledged."""

    stream: int
    complete: bool
    error_code: int
    kind: int = EventKind.STREAM_CLOSED


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection is over. Its streams were closed before this event."""

    connection: int
    error_code: int
    application: bool
    by_peer: bool
    reason: str
    handshake_completed: bool
    kind: int = EventKind.CONNECTION_CLOSED


Event = HandshakeCompleted | RequestReceived | BodyReceived | StreamWritable | StreamClosed | ConnectionClosed


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
    """Open a connection. After a Retry, `original_dcid` is what the token says and the id of the Initial stays ours."""

    original_dcid: bytes | None = None
    #: A token proved the address: no 3x limit (RFC 9000 section 8.1).
    address_validated: bool = False
    #: How admission counts this handshake. The engine hands it on, see `ServerTransport.accepted`.
    opening: Opening | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Retry:
    """Answer with a Retry packet: `scid` is an id of ours, `token` proves the address when it comes back."""

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
    """The only ways an engine calls Python: once per connection attempt and a few times per handshake."""

    def admit(self, initial: Initial, now_ns: int) -> Admission:
        """Decide about a new connection (velocity_edge/quic/admission.py)."""

    def handshake(self, transport: ServerTransport) -> Handshake:
        """Return the TLS side of a new connection (velocity_edge/tls/handshake.py)."""

    def address_token(self, peer: Address) -> bytes:
        """Return a NEW_TOKEN token for a peer that completed a handshake."""


class Level(enum.IntEnum):
    """Encryption levels, with ngtcp2's numbers (ngtcp2_encryption_level)."""

    INITIAL = 0
    HANDSHAKE = 1
    ONE_RTT = 2
    ZERO_RTT = 3


class HandshakeTransport(Protocol):
    """What a TLS handshake asks of the transport under it. An engine makes one per connection."""

    def local_parameters(self) -> bytes:
        """Our transport parameters, encoded. Complete only after the Handshake write key was installed (ngtcp2)."""

    def peer_parameters(self, data: bytes) -> None:
        """The peer's transport parameters. Raises ValueError when they are not acceptable."""

    def install_key(self, write: bool, level: Level, cipher_suite: int, secret: bytes) -> None:
        """A traffic secret is known."""

    def send_crypto(self, level: Level, data: bytes) -> None:
        """TLS bytes for the peer."""


class ServerTransport(HandshakeTransport, Protocol):
    """The same of a connection that was let in."""

    @property
    def accepted(self) -> Accept:
        """What `Upcalls.admit` answered for this connection. Readable inside `Upcalls.handshake`."""


class Handshake(Protocol):
    """One TLS 1.3 handshake: whole messages in, calls on `HandshakeTransport` out. Dropped when `done`."""

    done: bool
    #: Known once `done`; what `HandshakeCompleted` reports.
    alpn: str
    group: int
    cipher_suite: int
    signature_scheme: int
    server_name: str
    resumed: bool
    early_data_accepted: bool

    def feed(self, level: int, message: bytes) -> int:
        """Take one whole TLS message of this level. Return -1 to go on, or a TLS alert (0..255) to fail with."""


# --- the engine ------------------------------------------------------------------------------------------------------


@runtime_checkable
class OpenFile(Protocol):
    """A file whose descriptor stays open as long as this object lives. The engine keeps a reference while it reads."""

    fd: int


@dataclass(frozen=True, slots=True)
class FileRange:
    """`length` bytes of a file from `offset`, read by the engine straight into packets."""

    file: OpenFile
    offset: int
    length: int


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
    """Keys of ours that an engine needs. The first CID configuration seals; reset keys are found by config id."""

    cid_configs: list[CidConfig] = field(repr=False)
    reset_keys: dict[int, bytes] = field(repr=False)


class Engine(Protocol):
    """QUIC v1 and HTTP/3 for all connections of one worker."""

    name: str

    def batch(self) -> Batch:
        """Return a new batch of this engine's kind."""

    def use_settings(self, settings: EngineSettings) -> None:
        """Use these limits from now on, and this congestion control for new connections.

        Bounds of the worker hold at once, also for those who are here. A connection keeps what its peer was told and
        what its handshake began with (`limits.PROMISED`).
        """

    def use_keys(self, keys: EngineKeys) -> None:
        """From now on. Connections keep the ids they have."""

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        """Whose packets are handed over; ids of others that decode get a stateless reset."""

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

    def respond(
        self, stream: int, status: int, headers: Headers, body: bytes | FileRange | None = None, *, fin: bool = True
    ) -> bool:
        """Answer a request. With fin=False more comes by `write`. False when the stream is gone."""

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        """Add to the body; return the bytes now buffered, or -1 when the stream is gone.

        Above `Limits.send_high_bytes` the writer must wait for `StreamWritable`.
        """

    def credit(self, stream: int, n_bytes: int) -> None:
        """The handler has consumed that much of the request body."""

    def reset(self, stream: int, error_code: int) -> None:
        """Abandon a stream both ways (RESET_STREAM and STOP_SENDING)."""

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        """Close with an application error code (H3_NO_ERROR = 0x100)."""

    def goaway(self, connection: int, *, final: bool) -> None:
        """RFC 9114 section 5.2: first 2^62-4 ("soon"), then the first request that will not be processed."""

    def connections(self) -> list[tuple[int, int, int]]:
        """Return (connection, age in ns, open request streams) of each."""

    def connections_by_config(self) -> dict[int, int]:
        """Return CID config id -> connections that hold an id of it, where there are any. Costs nothing.

        One that holds ids of several counts for each. An id counts from when it is issued until the client has given
        it back, or the connection and its closing period are over. Ids that clients made up don't count.
        """

    def connections_on(self, config_ids: Collection[int]) -> list[int]:
        """Return the open connections that hold an id of one of these configurations."""

    def rename(self, connection: int) -> bool:
        """Give the client ids of the present keys and have it retire the others (RFC 9000 section 5.1.2).

        False: this engine cannot; GOAWAY is what moves its clients. An engine that can does so by itself, with the
        first packet of a client after the keys have changed; this is for those that say nothing.
        """

    def counters(self) -> dict[str, int]:
        """Return all counters of this engine since it began; names of counters.py."""
