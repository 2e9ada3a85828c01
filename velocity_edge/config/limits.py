"""`server.limits`: the numbers of velocity_edge/quic/limits.py as keys of the configuration.

The reason for each number is given there. Durations and sizes are written with their unit (`idle_timeout: 30s`,
`stream_window: 256KiB`), so the keys carry none. A test keeps both lists equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Duration, Size
from velocity_edge.quic.limits import Limits

_DEFAULT: Final = Limits()
_COUNT = Annotated[int, Field(ge=0)]


class LimitsSection(Section):
    """Bounds of what a peer can make grow; per worker, or per connection where the description says so.

    A reload changes them: limits of a worker apply at once; a connection keeps the limits that its client was told.
    """

    max_connections: _COUNT = _DEFAULT.max_connections
    """Connections of one worker."""
    max_connections_per_address: _COUNT = _DEFAULT.max_connections_per_address
    """Connections of one worker from one IPv4 address or IPv6 /56; more are closed after their handshake. 0: no bound,
    for nodes behind a balancer that hides the addresses of clients."""
    retry_threshold: _COUNT = _DEFAULT.retry_threshold
    """Handshakes in flight or recently failed, above which clients must validate their address first (Retry)."""
    max_half_open: _COUNT = _DEFAULT.max_half_open
    """The same for validated addresses; one IPv4 /24 or IPv6 /56 gets at most an eighth, less when there are many."""
    handshake_timeout_s: Duration = Field(default=_DEFAULT.handshake_timeout_s, alias="handshake_timeout")
    """Maximum duration of a handshake."""
    idle_timeout_s: Duration = Field(default=_DEFAULT.idle_timeout_s, alias="idle_timeout")
    """An idle connection is closed after this time."""
    max_crypto_bytes: Size = Field(default=_DEFAULT.max_crypto_bytes, alias="max_crypto")
    """Handshake bytes buffered for a peer that is not authenticated."""
    stream_window_bytes: Size = Field(default=_DEFAULT.stream_window_bytes, alias="stream_window")
    """Receive window of a stream."""
    connection_window_bytes: Size = Field(default=_DEFAULT.connection_window_bytes, alias="connection_window")
    """Receive window of a connection."""
    max_datagram_bytes: Annotated[Size, Field(ge=1200, le=1452, alias="max_datagram")] = _DEFAULT.max_datagram_bytes
    """Largest UDP payload that the native engine sends; 1200, which every path supports, disables path MTU probes."""
    max_streams_bidi: _COUNT = _DEFAULT.max_streams_bidi
    """Concurrent requests of a connection."""
    max_streams_uni: _COUNT = _DEFAULT.max_streams_uni
    """Unidirectional streams of a connection (HTTP/3 needs three)."""
    max_field_section_bytes: Size = Field(default=_DEFAULT.max_field_section_bytes, alias="max_field_section")
    """Size of all header fields of a request (RFC 9114 section 4.2.2)."""
    max_control_frame_bytes: Size = Field(default=_DEFAULT.max_control_frame_bytes, alias="max_control_frame")
    """Size of one frame on a control stream."""
    send_high_bytes: Size = Field(default=_DEFAULT.send_high_bytes, alias="send_high")
    """Unsent bytes of a stream above which its writer is paused."""
    send_low_bytes: Size = Field(default=_DEFAULT.send_low_bytes, alias="send_low")
    """Unsent bytes of a stream below which its writer is resumed."""
    max_unacked_bytes: Size = Field(default=_DEFAULT.max_unacked_bytes, alias="max_unacked")
    """Bytes of bodies that a connection has in flight; they stay in memory until they are acknowledged."""
    max_unacked_bytes_per_worker: Size = Field(
        default=_DEFAULT.max_unacked_bytes_per_worker, alias="max_unacked_per_worker"
    )
    """The same for all connections of a worker; above it no connection gets more than `send_high`."""
    max_active_cids: Annotated[int, Field(ge=2, le=64)] = _DEFAULT.max_active_cids
    """Active connection IDs of a connection."""
    max_glitches_per_s: _COUNT = _DEFAULT.max_glitches_per_s
    """Streams that the peer of a connection may reset or break before the connection is closed."""
    max_migrations_per_s: Annotated[int, Field(ge=1)] = _DEFAULT.max_migrations_per_s
    """Client address changes of a connection; datagrams from further addresses are dropped."""
    request_timeout_s: Duration = Field(default=_DEFAULT.request_timeout_s, alias="request_timeout")
    """Maximum time to receive the header section of a request."""
    stall_timeout_s: Duration = Field(default=_DEFAULT.stall_timeout_s, alias="stall_timeout")
    """A connection whose client accepts no response data is closed after this time."""
    max_request_body_bytes: Size = Field(default=_DEFAULT.max_request_body_bytes, alias="max_request_body")
    """Size of a request body; larger ones are answered with 413."""
    max_resets_per_s: _COUNT = _DEFAULT.max_resets_per_s
    """Stateless resets sent."""
    max_version_negotiations_per_s: _COUNT = _DEFAULT.max_version_negotiations_per_s
    """Version negotiation packets sent."""

    def problems(self) -> Iterator[Problem]:
        """Yield limits that contradict each other."""
        if self.send_low_bytes >= self.send_high_bytes:
            yield ("send_low",), "cannot be as large as send_high: a writer would never be resumed"
        if self.max_streams_uni < 3:
            yield ("max_streams_uni",), "cannot be below 3: HTTP/3 needs a control stream and two for QPACK"
        if self.retry_threshold > self.max_half_open:
            yield ("retry_threshold",), "cannot be above max_half_open: no Retry would ever be sent"
        if self.max_crypto_bytes < 4096:
            yield ("max_crypto",), "cannot be below 4096: a post-quantum ClientHello is 2 KiB and may be fragmented"
        if self.stream_window_bytes > self.connection_window_bytes:
            yield ("stream_window",), "cannot be larger than connection_window"

    def limits(self) -> Limits:
        """Return them in the form that engines use."""
        return Limits(**self.model_dump())
