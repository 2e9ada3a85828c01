"""The seam between a TLS 1.3 handshake and the transport that carries it.

A transport makes one `Handshake` per connection, feeds it whole messages, and is called back through
`HandshakeTransport`. QUIC implements it (RFC 9001: CRYPTO frames, keys for packets); a record layer over TCP can.
"""

from __future__ import annotations

import enum
from typing import Protocol


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
