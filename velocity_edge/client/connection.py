"""aioquic's QuicConnection with what the client adds, and HTTP/3 on it.

Added: our TLS (ML-KEM, ML-DSA, HelloRetryRequest), flow control windows that slide with what was read, detection of
stateless resets (RFC 9000 section 10.3.1; aioquic 1.7.2 never compares the tokens), detection of GOAWAY, and bounded
field sections. The QPACK dynamic table is off.
"""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from typing import Any, Final

import pylsqpack
from aioquic.buffer import Buffer
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, H3Stream, ProtocolError, Setting
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import END_STATES, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode

from velocity_edge.client.aioquic_tls import LEVELS, ClientContext, aioquic_ticket
from velocity_edge.quic.portable.configuration import NAMES
from velocity_edge.quic.portable.windows import SlidingWindows
from velocity_edge.quic.reset import TOKEN_LENGTH
from velocity_edge.tls.client_policy import ClientPolicy, Session

STATELESS_RESET: Final = "the server has lost this connection (stateless reset)"
_STREAM_WINDOW: Final = 1024 * 1024
_CONNECTION_WINDOW: Final = 4 * 1024 * 1024
#: CRYPTO data beyond the contiguous part: a flight with two ML-DSA-87 certificates is 22 kB.
_MAX_CRYPTO_BYTES: Final = 65_536
_MAX_FIELD_SECTION: Final = 65_536
_INITIAL_FLIGHT_BYTES: Final = 8192
_SHORTEST_RESET: Final = 21
#: Error codes 0x0100 to 0x01ff carry a TLS alert (RFC 9001 section 4.8).
_CRYPTO_ERROR: Final = 0x100


class ClientConnection(SlidingWindows):
    """One client connection. *on_session* gets the sessions that a later connection can resume."""

    def __init__(
        self,
        policy: ClientPolicy,
        *,
        token: bytes = b"",
        idle_timeout_s: float = 30.0,
        on_session: Callable[[Session], None] = lambda session: None,
        on_token: Callable[[bytes], None] = lambda token: None,
    ) -> None:
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[name.decode() for name in policy.alpn],
            congestion_control_algorithm=NAMES["cubic"],
            idle_timeout=idle_timeout_s,
            max_data=_CONNECTION_WINDOW,
            max_stream_data=_STREAM_WINDOW,
            server_name=policy.server_name,
            token=token,
            session_ticket=aioquic_ticket(policy.session) if policy.session and policy.early_data else None,
        )
        # Not used: our TLS verifies with its own Trust.
        configuration.verify_mode = ssl.CERT_NONE
        configuration.supported_versions = [1]
        self._policy = policy
        self._closed_here = False
        self._on_session = on_session
        super().__init__(configuration=configuration, token_handler=on_token)
        self.use_windows(stream_bytes=_STREAM_WINDOW, connection_bytes=_CONNECTION_WINDOW)

    @property
    def context(self) -> ClientContext:
        """The TLS of this connection."""
        assert isinstance(self.tls, ClientContext)
        return self.tls

    @property
    def retried(self) -> bool:
        """Whether the server sent a Retry packet."""
        return bool(self._retry_count)

    @property
    def failure(self) -> Any:
        """The event that closes the connection, as soon as it is known; None while the connection is open."""
        return self._close_event

    @property
    def closed_by_peer(self) -> bool:
        """Whether the server closed the connection."""
        return self._close_event is not None and not self._closed_here

    def close(self, error_code: int = 0x100, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """Close the connection from this side."""
        if self._close_event is None:
            self._closed_here = True
        super().close(error_code=error_code, frame_type=frame_type, reason_phrase=reason_phrase)

    def why_closed(self) -> str:
        """Return the reason for which the connection ended, in words."""
        code, reason = self.failure.error_code, self.failure.reason_phrase
        if _CRYPTO_ERROR <= code < _CRYPTO_ERROR + 0x100 and self.failure.frame_type is not None:
            who = "the server refused the handshake" if self.closed_by_peer else "the handshake was refused here"
            why = f"{who}: TLS alert {code - _CRYPTO_ERROR}"
        elif self.closed_by_peer:
            why = f"the server closed the connection with code 0x{code:x}"
        else:
            why = "the connection ended"
        return why + (f": {reason}" if reason else "")

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take a datagram; detect stateless resets."""
        if self._state not in END_STATES and len(data) >= _SHORTEST_RESET and not data[0] & 0x80:
            tail = data[-TOKEN_LENGTH:]
            known = (self._peer_cid, *self._peer_cid_available)
            # Compare with all tokens, each in constant time: the duration must not reveal which one matches.
            hits = [hmac.compare_digest(i.stateless_reset_token, tail) for i in known if i.stateless_reset_token]
            if any(hits):
                self._close_event = events.ConnectionTerminated(
                    error_code=QuicErrorCode.NO_ERROR, frame_type=0, reason_phrase=STATELESS_RESET
                )
                self._close_end()
                return
        super().receive_datagram(data, addr, now)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls: Any = ClientContext.adopt(self.tls, self._policy, self._on_session)
        self._crypto_buffers: dict[Any, Buffer] = {
            epoch: Buffer(capacity=_INITIAL_FLIGHT_BYTES) for epoch in self._crypto_streams
        }

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        position = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(position)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > _MAX_CRYPTO_BYTES:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much CRYPTO data")
        self.context.level = LEVELS[context.epoch]
        super()._handle_crypto_frame(context, frame_type, buf)


class _TooLarge(ProtocolError):
    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class ClientH3(H3Connection):
    """HTTP/3 on a client connection: no dynamic table, no server push, bounded field sections."""

    #: Whether the server sent GOAWAY (RFC 9114 section 5.2).
    going_away = False

    def _init_connection(self) -> None:
        #: Streams whose response has a content-length but no content: HEAD requests and 304 responses (RFC 9110 8.6).
        self.without_content: set[int] = set()
        self._max_table_capacity = self._blocked_streams = 0
        self._max_push_id = None
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def forget(self, stream_id: int) -> None:
        """Free a request stream that was reset."""
        self._stream.pop(stream_id, None)
        self.without_content.discard(stream_id)

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: _MAX_FIELD_SECTION,
        }

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Any:
        headers = super()._decode_headers(stream_id, frame_data)
        if (b":status", b"304") in headers:
            self.without_content.add(stream_id)
        return headers

    def _check_content_length(self, stream: H3Stream) -> None:
        # aioquic always compares, and so refuses every response to HEAD.
        if stream.stream_id not in self.without_content:
            super()._check_content_length(stream)

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type in (FrameType.HEADERS, FrameType.PUSH_PROMISE) and stream.frame_size > _MAX_FIELD_SECTION:
            raise _TooLarge("header section too large")

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        if frame_type == FrameType.GOAWAY:
            self.going_away = True
        elif frame_type == FrameType.SETTINGS and self._stream[self._peer_control_stream_id].frame_size > 4096:
            raise _TooLarge("SETTINGS too large")
