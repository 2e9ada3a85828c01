"""The seam between a TLS 1.3 handshake and the transport that carries it.

A transport makes one `Handshake` per connection, feeds it whole messages, and is called back through
`HandshakeTransport`. QUIC (RFC 9001) carries messages in CRYPTO frames and adds `TransportParameters`; a record layer
over TCP has no parameters, and `Level.INITIAL` stands for its plaintext records.

`MessageReader` cuts a stream into messages, for transports that do not do it in C.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, Protocol

from velocity_edge.tls.alerts import decode_error, unexpected_message

#: What `Handshake.feed` returns when the handshake goes on.
CONTINUE: Final = -1
#: A message of a client, who is not authenticated yet: a ClientHello with post-quantum key shares has 2 KB.
MAX_CLIENT_MESSAGE_BYTES: Final = 16_384


class Level(enum.IntEnum):
    """Encryption levels, with the numbers of ngtcp2 (ngtcp2_encryption_level)."""

    INITIAL = 0
    HANDSHAKE = 1
    ONE_RTT = 2
    ZERO_RTT = 3


class HandshakeTransport(Protocol):
    """What a TLS handshake needs of the transport under it. A transport makes one per connection."""

    def install_key(self, write: bool, level: Level, cipher_suite: int, secret: bytes) -> None:
        """A traffic secret is known."""

    def send_crypto(self, level: Level, data: bytes) -> None:
        """TLS bytes for the peer."""


class TransportParameters(Protocol):
    """QUIC's transport parameters (RFC 9001 section 8.2). A handshake that gets none is not one of QUIC."""

    def local_parameters(self) -> bytes:
        """Our transport parameters, encoded. Complete only after the Handshake write key was installed (ngtcp2)."""

    def peer_parameters(self, data: bytes) -> None:
        """The peer's transport parameters. Raises ValueError when they are not acceptable."""


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


class MessageReader:
    """Cuts a stream into messages. Use one per connection.

    It keeps two rules that no state machine can see: an unfinished message is bounded (the peer is not authenticated
    yet), and no message straddles a change of encryption level (RFC 8446 section 5.1, RFC 9001 section 4.1.3).
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._level: int | None = None
        self._pending = b""

    def messages(self, level: int, data: bytes) -> Iterator[bytes]:
        """Yield the messages that *data* completes; keep the rest. Raises `Alert`."""
        if level != self._level:
            if self._pending:
                raise unexpected_message("an unfinished message at the end of an encryption level")
            self._level = level
        self._pending += data
        while len(self._pending) >= 4:
            end = 4 + int.from_bytes(self._pending[1:4], "big")
            if end > self._max_message_bytes:
                raise decode_error(f"a message of {end} bytes, more than {self._max_message_bytes}")
            if len(self._pending) < end:
                return
            message, self._pending = self._pending[:end], self._pending[end:]
            yield message
