"""Our client's TLS in the place where aioquic's QuicConnection expects its own `tls.Context`.

    connection._initialize()                  makes a tls.Context with its callbacks and transport parameters
    ClientContext.adopt(that, policy, ...)    takes those over; the connection never notices

An adapter, not a subclass: nothing of aioquic's handshake runs. It translates TLS messages out of CRYPTO data,
`HandshakeTransport` and `TransportParameters` onto aioquic's callbacks and buffers, and our alerts into aioquic's. The
attributes are those that QuicConnection reads of its `tls` (compat.py pins the methods that read them). The portable
engine has its own, leaner adapter for server connections (portable/tls.py).

aioquic's context does not know encryption levels: the connection must set `level` before each `handle_message`
(override of `_handle_crypto_frame`), or a message of one level would be taken at another.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, Final, Self

from aioquic import tls

from velocity_edge.tls import codec
from velocity_edge.tls.alerts import Alert
from velocity_edge.tls.client import MAX_SERVER_MESSAGE_BYTES, ClientHandshake
from velocity_edge.tls.client import State as ClientState
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.transport import Level, MessageReader

LEVELS: Final[dict[Any, Level]] = {
    tls.Epoch.INITIAL: Level.INITIAL,
    tls.Epoch.ZERO_RTT: Level.ZERO_RTT,
    tls.Epoch.HANDSHAKE: Level.HANDSHAKE,
    tls.Epoch.ONE_RTT: Level.ONE_RTT,
}
_EPOCHS: Final[dict[int, Any]] = {level: epoch for epoch, level in LEVELS.items()}


def aioquic_alert(description: int, reason: str) -> Exception:
    """Return the exception that makes QuicConnection close with CRYPTO_ERROR + *description*."""
    alert: Exception = tls.Alert(reason)
    alert.description = tls.AlertDescription(description)  # type: ignore[attr-defined]
    return alert


class AioquicContext:
    """What does not depend on the side: `HandshakeTransport` on aioquic's callbacks."""

    handshake: ServerHandshake | ClientHandshake

    def __init__(self, context: Any, max_message_bytes: int) -> None:
        # What QuicConnection sets or reads.
        self.handshake_extensions: list[tuple[int, bytes]] = context.handshake_extensions
        self.received_extensions: list[tuple[int, bytes]] = []
        self.alpn_cb: Callable[[str], None] = context.alpn_cb
        self.update_traffic_key_cb: Callable[[Any, Any, Any, bytes], None] = context.update_traffic_key_cb
        #: QUIC has no middlebox compatibility mode; a peer that tries it was refused.
        self.legacy_session_id = b""
        #: The encryption level of what comes next; set by the connection for each CRYPTO frame.
        self.level: Level | None = None
        self._reader = MessageReader(max_message_bytes)
        self._output: dict[Any, Any] = {}

    def handle_message(self, input_data: bytes, output_buf: dict[Any, Any]) -> None:
        """Take CRYPTO data of `level`; what we answer is appended to *output_buf* by epoch."""
        assert self.level is not None
        self._output = output_buf
        try:
            for message in self._reader.messages(self.level, input_data):
                description = self.handshake.feed(self.level, message)
                if description >= 0:
                    raise aioquic_alert(description, self.handshake.alert_reason)
        except Alert as alert:
            raise aioquic_alert(alert.description, alert.reason) from None

    @property
    def alpn_negotiated(self) -> str:
        """The application protocol."""
        return self.handshake.alpn

    @property
    def early_data_accepted(self) -> bool:
        """Whether 0-RTT data was accepted."""
        return self.handshake.early_data_accepted

    @property
    def session_resumed(self) -> bool:
        """Whether a ticket was used."""
        return self.handshake.resumed

    @property
    def client_random(self) -> bytes:
        """For a key log."""
        return self.handshake.client_random

    # --- HandshakeTransport, TransportParameters -----------------------------------------------------------------

    def local_parameters(self) -> bytes:
        """Return our transport parameters as the connection encoded them."""
        return dict(self.handshake_extensions)[codec.EXT_QUIC_PARAMETERS]

    def peer_parameters(self, data: bytes) -> None:
        """Hand the peer's to the connection, which raises its own errors about them."""
        self.received_extensions = [(codec.EXT_QUIC_PARAMETERS, data)]
        self.alpn_cb(self.handshake.alpn)

    def install_key(self, write: bool, level: Level, cipher_suite: int, secret: bytes) -> None:
        """Hand a traffic secret to the connection."""
        direction = tls.Direction.ENCRYPT if write else tls.Direction.DECRYPT
        self.update_traffic_key_cb(direction, _EPOCHS[level], tls.CipherSuite(cipher_suite), secret)

    def send_crypto(self, level: Level, data: bytes) -> None:
        """Append to the buffer of this epoch. The connection makes the buffers large enough for our flights."""
        self._output[_EPOCHS[level]].push_bytes(data)


class ClientContext(AioquicContext):
    """Stands in for `tls.Context` of a client connection. Sessions go to `policy` in and to *on_session* out.

    To send early data, give the connection's configuration `aioquic_ticket(session)` too: QuicConnection reads the
    remembered transport parameters from it.
    """

    def __init__(self, context: Any, policy: ClientPolicy, on_session: Callable[[Session], None]) -> None:
        super().__init__(context, MAX_SERVER_MESSAGE_BYTES)
        self.handshake: ClientHandshake = ClientHandshake(policy, self, self, on_session=on_session)

    @classmethod
    def adopt(
        cls, context: Any, policy: ClientPolicy, on_session: Callable[[Session], None] = lambda session: None
    ) -> Self:
        """Return a context in place of the one that QuicConnection has just made."""
        return cls(context, policy, on_session)

    def handle_message(self, input_data: bytes, output_buf: dict[Any, Any]) -> None:
        """Take CRYPTO data; the first call has none and sends the ClientHello."""
        if self.handshake.state is ClientState.START:
            self._output = output_buf
            self.handshake.start()
            return
        super().handle_message(input_data, output_buf)

    @property
    def state(self) -> Any:
        """QuicConnection asks whether the server has answered yet, and whether the handshake is over."""
        return _CLIENT_STATES.get(self.handshake.state, tls.State.CLIENT_EXPECT_FINISHED)


_CLIENT_STATES: Final = {
    ClientState.START: tls.State.CLIENT_HANDSHAKE_START,
    ClientState.SERVER_HELLO: tls.State.CLIENT_EXPECT_SERVER_HELLO,
    ClientState.CONNECTED: tls.State.CLIENT_POST_HANDSHAKE,
}


def aioquic_ticket(session: Session) -> Any:
    """Return *session* as QuicConfiguration.session_ticket wants it."""
    received = datetime.datetime.fromtimestamp(session.received_s, datetime.UTC)
    return tls.SessionTicket(
        age_add=session.age_add,
        cipher_suite=tls.CipherSuite(session.suite_id),
        not_valid_after=received + datetime.timedelta(seconds=session.lifetime_s),
        not_valid_before=received,
        resumption_secret=session.secret,
        server_name=session.server_name,
        ticket=session.ticket,
        max_early_data_size=0xFFFFFFFF if session.early_data else None,
        other_extensions=[(codec.EXT_QUIC_PARAMETERS, session.parameters)],
    )
