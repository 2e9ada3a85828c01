"""Our TLS where aioquic's QuicConnection expects a `tls.Context`: a `Handshake` between two sets of names.

QuicConnection calls `handle_message` and reads the five properties below; the handshake calls back as
`ServerTransport`. Nothing of aioquic's own handshake runs, so one policy code serves both engines.

aioquic does not tell its context the encryption level of a message. The connection sets `level` before each call
(bounds.py), and an incomplete message at the end of a level is an error (RFC 9001 section 4.1.3). CRYPTO data goes
straight to aioquic's send streams: its intermediate buffers of 3 x 16 KiB per connection are not made at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from aioquic import tls
from aioquic.quic.connection import QuicConnectionError

from velocity_edge.quic.datagrams import Accept
from velocity_edge.tls.alerts import Alert, AlertDescription
from velocity_edge.tls.transport import Handshake, Level, MessageReader

LEVEL_OF: Final[dict[Any, Level]] = {
    tls.Epoch.INITIAL: Level.INITIAL,
    tls.Epoch.ZERO_RTT: Level.ZERO_RTT,
    tls.Epoch.HANDSHAKE: Level.HANDSHAKE,
    tls.Epoch.ONE_RTT: Level.ONE_RTT,
}
_EPOCH_OF: Final[dict[Level, Any]] = {level: epoch for epoch, level in LEVEL_OF.items()}


class _Summary:
    """What is read of a handshake after it was dropped."""

    def __init__(self, handshake: Handshake) -> None:
        self.done = True
        self.alpn = handshake.alpn
        self.group = handshake.group
        self.cipher_suite = handshake.cipher_suite
        self.signature_scheme = handshake.signature_scheme
        self.server_name = handshake.server_name
        self.resumed = handshake.resumed
        self.early_data_accepted = handshake.early_data_accepted

    def feed(self, level: int, message: bytes) -> int:
        """Nothing may follow a client's Finished: QUIC has no KeyUpdate and we ask for no certificate."""
        return int(AlertDescription.UNEXPECTED_MESSAGE)


class Carrier(Protocol):
    """What the adapter needs of its connection, in the terms of aioquic."""

    def encoded_parameters(self) -> bytes:
        """Return our transport parameters."""

    def apply_peer_parameters(self, data: bytes) -> None:
        """Apply the peer's. Raises QuicConnectionError."""

    def install_key(self, direction: Any, epoch: Any, cipher_suite: Any, secret: bytes) -> None:
        """Install a traffic secret."""

    def send_crypto(self, epoch: Any, data: bytes) -> None:
        """Queue TLS bytes."""


class TlsAdapter:
    """Stands in for aioquic's `tls.Context` and is the `ServerTransport` of the handshake."""

    def __init__(self, connection: Carrier, max_message_bytes: int, accepted: Accept) -> None:
        self.accepted = accepted
        self.level = Level.INITIAL
        #: Set by the connection right after: the handshake is made with this adapter.
        self.handshake: Handshake | None = None
        #: A second ClientHello came, after our HelloRetryRequest.
        self.hello_retried = False
        #: Why the transport parameters of the peer were refused; more exact than the alert that follows.
        self.parameters_error: QuicConnectionError | None = None
        self._connection = connection
        self._reader: MessageReader = MessageReader(max_message_bytes)
        self._hellos = 0

    # --- what QuicConnection calls and reads --------------------------------------------------------------------

    def handle_message(self, data: bytes, output: object) -> None:
        """Take CRYPTO data of `level`. Raises aioquic's Alert."""
        try:
            for message in self._reader.messages(self.level, data):
                self._feed(message)
        except Alert as alert:
            raise _aioquic_alert(alert.description, alert.reason) from None

    def _feed(self, message: bytes) -> None:
        handshake = self.handshake
        assert handshake is not None
        if self.level == Level.INITIAL:
            self._hellos += 1
            self.hello_retried = self._hellos == 2
        description = handshake.feed(self.level, message)
        if description >= 0:
            if self.parameters_error is not None:
                raise self.parameters_error
            raise _aioquic_alert(description, "")
        if handshake.done and not isinstance(handshake, _Summary):
            self.handshake = _Summary(handshake)

    @property
    def state(self) -> Any:
        """aioquic reads only whether the handshake is over."""
        assert self.handshake is not None
        return tls.State.SERVER_POST_HANDSHAKE if self.handshake.done else tls.State.SERVER_EXPECT_FINISHED

    @property
    def alpn_negotiated(self) -> str:
        """The application protocol."""
        assert self.handshake is not None
        return self.handshake.alpn

    @property
    def early_data_accepted(self) -> bool:
        """Whether 0-RTT was accepted."""
        assert self.handshake is not None
        return self.handshake.early_data_accepted

    @property
    def session_resumed(self) -> bool:
        """Whether a ticket was used."""
        assert self.handshake is not None
        return self.handshake.resumed

    # --- HandshakeTransport, TransportParameters ------------------------------------------------------------------

    def local_parameters(self) -> bytes:
        """Our transport parameters."""
        return self._connection.encoded_parameters()

    def peer_parameters(self, data: bytes) -> None:
        """The peer's. Raises ValueError."""
        try:
            self._connection.apply_peer_parameters(data)
        except QuicConnectionError as error:
            # It has the transport error code; the handshake has only an alert.
            self.parameters_error = error
            raise ValueError(str(error)) from error

    def install_key(self, write: bool, level: Level, cipher_suite: int, secret: bytes) -> None:
        """A traffic secret is known."""
        direction = tls.Direction.ENCRYPT if write else tls.Direction.DECRYPT
        self._connection.install_key(direction, _EPOCH_OF[level], tls.CipherSuite(cipher_suite), secret)

    def send_crypto(self, level: Level, data: bytes) -> None:
        """TLS bytes for the peer."""
        self._connection.send_crypto(_EPOCH_OF[level], data)


HandshakeFactory = Callable[[TlsAdapter], Handshake]


def _aioquic_alert(description: int, reason: str) -> Exception:
    alert: Exception = tls.Alert(reason)
    alert.description = description  # type: ignore[attr-defined]
    return alert
