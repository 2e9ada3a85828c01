"""`server.limits`: the numbers of velocity_edge/quic/limits.py as keys of the configuration.

Why each number is what it is stands there. Durations and sizes are written with their unit here (`idle_timeout: 30s`,
`stream_window: 256KiB`), so the keys have none. A test holds both lists together.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from velocity_edge.config.values import Duration, Size
from velocity_edge.quic.limits import Limits

_DEFAULT: Final = Limits()
_COUNT = Annotated[int, Field(ge=0)]


class LimitsSection(BaseModel):
    """What a stranger on the network can make grow, and how far; per worker, or per connection where it says so.

    A reload changes them: what bounds a worker holds at once, a connection keeps what its client was told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    max_connections: _COUNT = _DEFAULT.max_connections
    """Connections of one worker."""
    retry_threshold: _COUNT = _DEFAULT.retry_threshold
    """Handshakes that are in flight or failed lately, above which clients must first prove their address (Retry)."""
    max_half_open: _COUNT = _DEFAULT.max_half_open
    """The same of clients that proved it; an IPv4 /24 or IPv6 /56 gets at most an eighth, less when there are many."""
    handshake_timeout_s: Duration = Field(default=_DEFAULT.handshake_timeout_s, alias="handshake_timeout")
    """A handshake takes no longer."""
    idle_timeout_s: Duration = Field(default=_DEFAULT.idle_timeout_s, alias="idle_timeout")
    """A silent connection ends after this time."""
    max_crypto_bytes: Size = Field(default=_DEFAULT.max_crypto_bytes, alias="max_crypto")
    """Handshake bytes held for a peer that is not authenticated."""
    stream_window_bytes: Size = Field(default=_DEFAULT.stream_window_bytes, alias="stream_window")
    """Receive window of a stream."""
    connection_window_bytes: Size = Field(default=_DEFAULT.connection_window_bytes, alias="connection_window")
    """Receive window of a connection."""
    max_datagram_bytes: Annotated[Size, Field(ge=1200, le=1452, alias="max_datagram")] = _DEFAULT.max_datagram_bytes
    """Largest UDP payload that the native engine sends; 1200, which every path carries, sends no path MTU probes."""
    max_streams_bidi: _COUNT = _DEFAULT.max_streams_bidi
    """Requests of a connection at one time."""
    max_streams_uni: _COUNT = _DEFAULT.max_streams_uni
    """Unidirectional streams of a connection (HTTP/3 needs three)."""
    max_field_section_bytes: Size = Field(default=_DEFAULT.max_field_section_bytes, alias="max_field_section")
    """All header fields of a request (RFC 9114 section 4.2.2)."""
    max_control_frame_bytes: Size = Field(default=_DEFAULT.max_control_frame_bytes, alias="max_control_frame")
    """One frame on a control stream."""
    send_high_bytes: Size = Field(default=_DEFAULT.send_high_bytes, alias="send_high")
    """Unsent bytes of a stream, above which its writer waits."""
    send_low_bytes: Size = Field(default=_DEFAULT.send_low_bytes, alias="send_low")
    """Unsent bytes of a stream, below which its writer goes on."""
    max_unacked_bytes: Size = Field(default=_DEFAULT.max_unacked_bytes, alias="max_unacked")
    """Bytes of bodies that a connection has in flight; they stay in memory until they are acknowledged."""
    max_unacked_bytes_per_worker: Size = Field(
        default=_DEFAULT.max_unacked_bytes_per_worker, alias="max_unacked_per_worker"
    )
    """The same for all connections of a worker; above it no connection gets more than `send_high`."""
    max_active_cids: Annotated[int, Field(ge=2, le=64)] = _DEFAULT.max_active_cids
    """Connection IDs of a connection at one time."""
    max_glitches_per_s: _COUNT = _DEFAULT.max_glitches_per_s
    """Streams reset or broken by the peer of one connection, before it is closed."""
    max_migrations_per_s: Annotated[int, Field(ge=1)] = _DEFAULT.max_migrations_per_s
    """Changes of the client's address of a connection; datagrams from yet another one are dropped."""
    request_timeout_s: Duration = Field(default=_DEFAULT.request_timeout_s, alias="request_timeout")
    """The header section of a request takes no longer."""
    stall_timeout_s: Duration = Field(default=_DEFAULT.stall_timeout_s, alias="stall_timeout")
    """A client that takes nothing of its answers is kept alive for this time, then closed."""
    max_request_body_bytes: Size = Field(default=_DEFAULT.max_request_body_bytes, alias="max_request_body")
    """The body of a request; above it the answer is 413."""
    max_resets_per_s: _COUNT = _DEFAULT.max_resets_per_s
    """Stateless resets sent."""
    max_version_negotiations_per_s: _COUNT = _DEFAULT.max_version_negotiations_per_s
    """Version negotiation packets sent."""

    def limits(self) -> Limits:
        """Return them as the engines take them."""
        return Limits(**self.model_dump())


def fields_without_key() -> set[str]:
    """Return the names in which this section and `Limits` differ: none."""
    return set(asdict(_DEFAULT)) ^ set(LimitsSection.model_fields)
