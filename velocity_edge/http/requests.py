"""The seam between HTTP and whatever carries it: events come out, answers go in.

`Requests` is what exchanges, drains and moves need of a carrier of requests. HTTP/3 implements it (the engines of
velocity_edge/quic); h1, h2 and velocity/1 will. Packets, sockets and timers are no part of it: see
velocity_edge/quic/datagrams.py for those of QUIC.

A carrier hands out one event per handshake, request or body chunk, never one per packet. A stream or connection handle
is an int that is never used twice. An answer to one that is gone returns False.

`now_ns` is CLOCK_MONOTONIC in nanoseconds everywhere.

Long because events and answers are one vocabulary, and both sides of it read it as a whole.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

#: An address as the engines see it: packed IPv4 (4 bytes) or IPv6 (16 bytes, never IPv4-mapped), and a port. Of a
#: link-local one (fe80::/10) bytes 4 to 7, zero on the wire, are the index of its interface, as BSD kernels keep it:
#: two interfaces can have the same neighbour, and an answer must leave by the right one (RFC 4007).
Address = tuple[bytes, int]
Headers = Sequence[tuple[bytes, bytes]]
#: Informational responses to one request: more would only cost memory until the client acknowledges them.
MAX_INFORMATIONAL: Final = 16


# --- events -----------------------------------------------------------------------------------------------------------


class EventKind(enum.IntEnum):
    """The values of `Event.kind`; the index into an endpoint's table of handlers."""

    HANDSHAKE_COMPLETED = 0
    REQUEST_RECEIVED = 1
    BODY_RECEIVED = 2
    STREAM_WRITABLE = 3
    STREAM_CLOSED = 4
    CONNECTION_CLOSED = 5
    UPSTREAM_ENDED = 6


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
    #: Of an extended CONNECT (RFC 9220), e.g. `websocket`: the stream becomes a tunnel when the answer is 2xx.
    protocol: bytes = b""
    kind: int = EventKind.REQUEST_RECEIVED


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """Bytes of a request body. The peer gets credit for them only by `Requests.credit`: that is the back-pressure."""

    stream: int
    data: bytes
    fin: bool
    #: With `fin`: valid fields after the body (RFC 9110 section 6.5), as many bytes as a header section at most.
    trailers: Headers = ()
    kind: int = EventKind.BODY_RECEIVED


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """What `write` had buffered has fallen below `Limits.send_low_bytes`."""

    stream: int
    kind: int = EventKind.STREAM_WRITABLE


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The stream has ended, before or after the answer; `complete` when the whole answer was acknowledged."""

    stream: int
    complete: bool
    error_code: int
    kind: int = EventKind.STREAM_CLOSED


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection has ended. Its streams were closed before this event."""

    connection: int
    error_code: int
    application: bool
    by_peer: bool
    reason: str
    handshake_completed: bool
    kind: int = EventKind.CONNECTION_CLOSED


class Outcome(enum.IntEnum):
    """How an attempt to have a request answered by an upstream ended (upstreams.py)."""

    #: The whole response was passed on.
    COMPLETE = 0
    #: No connection: refused, unreachable, TLS failed, no file descriptor. Nothing was sent.
    CONNECT_FAILED = 1
    CONNECT_TIMEOUT = 2
    #: The connection ended before a complete response head. `reused` tells a kept-alive connection, which may have
    #: been closed by the server meanwhile.
    CLOSED_EARLY = 3
    RESPONSE_TIMEOUT = 4
    #: The response is no HTTP, or over a limit.
    INVALID = 5
    #: After the head: the connection ended, was invalid, or was idle for too long. The client's stream was reset.
    TRUNCATED = 6
    IDLE_TIMEOUT = 7
    #: The client's stream or connection ended first; `StreamClosed` follows.
    CLIENT_GONE = 8
    #: The request body is above `max_body_bytes`: 413 is due unless a head was sent.
    REQUEST_TOO_LARGE = 9
    #: The client did not send its body for `idle_timeout_ns`: 408 is due unless a head was sent.
    REQUEST_TIMEOUT = 10
    CANCELLED = 11


@dataclass(frozen=True, slots=True)
class UpstreamEnded:
    """An attempt of `Forwarding.forward` is over. Without `head_sent` the request still waits for an answer."""

    stream: int
    pool: int
    outcome: int
    #: Of the final response; 0 before its head.
    status: int
    head_sent: bool
    #: Bytes of the request's body were sent: another attempt would lack them.
    body_sent: bool
    #: The attempt used a kept-alive connection.
    reused: bool
    request_bytes: int
    response_bytes: int
    #: From `forward` to the connection, to the response head, to the end; 0 when that was not reached.
    connect_ns: int
    head_ns: int
    total_ns: int
    #: For the log: "connection refused". Never bytes of the peer.
    reason: str
    kind: int = EventKind.UPSTREAM_ENDED


Event = (
    HandshakeCompleted
    | RequestReceived
    | BodyReceived
    | StreamWritable
    | StreamClosed
    | ConnectionClosed
    | UpstreamEnded
)


# --- answers ----------------------------------------------------------------------------------------------------------


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


class Requests(Protocol):
    """The connections of one worker over one carrier, and the requests on them."""

    def respond(
        self, stream: int, status: int, headers: Headers, body: bytes | FileRange | None = None, *, fin: bool = True
    ) -> bool:
        """Answer a request. With fin=False more follows by `write`. False when the stream is gone.

        Informational responses (100, 102 to 199) come before the answer; False after `MAX_INFORMATIONAL` of them.
        Raises `ValueError` for a status or a field that must not be sent.
        """

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        """Add to the body; return the bytes now buffered, or -1 when the stream is gone.

        Above `Limits.send_high_bytes` the writer must wait for `StreamWritable`.
        """

    def trailers(self, stream: int, fields: Headers) -> bool:
        """End a response that was begun with fin=False, with fields after its body (RFC 9110 section 6.5).

        False when the stream is gone or its response has ended. Raises `ValueError` for a field that must not be sent.
        """

    def credit(self, stream: int, n_bytes: int) -> None:
        """The handler has consumed that much of the request body."""

    def reset(self, stream: int, error_code: int) -> None:
        """Abandon a stream both ways (RESET_STREAM and STOP_SENDING)."""

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        """Close with an application error code (H3_NO_ERROR = 0x100)."""

    def goaway(self, connection: int, *, final: bool) -> None:
        """Send GOAWAY (RFC 9114 section 5.2): first with the largest id, then with the first request not processed."""

    def connections(self) -> list[tuple[int, int, int]]:
        """Return (connection, age in ns, open request streams) of each."""

    def connections_on(self, config_ids: Collection[int]) -> list[int]:
        """Return the open connections that hold an id of one of these configurations."""

    def rename(self, connection: int) -> bool:
        """Give the client ids of the present keys and have it retire the others (RFC 9000 section 5.1.2).

        False: this carrier cannot; GOAWAY is what moves its clients. A carrier that can does so by itself, with the
        first packet of a client after the keys have changed; this is for clients that send nothing.
        """
