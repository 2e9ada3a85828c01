"""aioquic's QuicConnection (1.7.2) as a server connection: our TLS, our connection IDs, NEW_TOKEN.

    _initialize                    our TLS in the place of aioquic's; an address that a token proved counts as validated
    _handle_crypto_frame           tells our TLS the encryption level
    _replenish_connection_ids      our ids and reset tokens, few of them
    _handle_retire_connection_id_frame  an id that was never sent cannot be retired (stock issues a new one for each:
                                   four hundred in one packet)
    _write_new_connection_id_frame Retire Prior To, so that clients move to ids of new keys (stock: always 0)
    _write_handshake_done_frame    NEW_TOKEN is sent with HANDSHAKE_DONE, and is repeated with it when lost

What a client may make it hold is bounded in bounds.py. `velocity_edge/quic/compat.py` pins the source of all overridden
methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder

from velocity_edge.quic.datagrams import Accept
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable import ids
from velocity_edge.quic.portable.bounds import BoundedConnection, has_repeated_parameter
from velocity_edge.quic.portable.ids import NewId
from velocity_edge.quic.portable.tls import LEVEL_OF, HandshakeFactory, TlsAdapter

#: Of one frame with ids of 20 bytes: type 1, numbers 8 and 8, length 1, id 20, reset token 16.
_NEW_CONNECTION_ID_BYTES: Final = 54


class EdgeConnection(BoundedConnection):
    """One server connection. Addresses are opaque to aioquic; here they are (peer, local, listener)."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        limits: Limits,
        original_dcid: bytes,
        retry_scid: bytes | None,
        first_id: NewId,
        issue_id: Callable[[], NewId],
        address_token: Callable[[Any], bytes],
        accepted: Accept,
        make_handshake: HandshakeFactory,
    ) -> None:
        super().__init__(
            limits,
            configuration=configuration,
            original_destination_connection_id=original_dcid,
            retry_source_connection_id=retry_scid,
        )
        self._issue_id = issue_id
        self._address_token = address_token
        self._address_validated = accepted.address_validated
        self._parameters = b""
        self._token = b""
        self._highest_sent_id = 0
        self._retire_prior_to = 0
        self._host_cids = [ids.quic_id(first_id, 0, was_sent=True)]
        self.host_cid = self._local_initial_source_connection_id = first_id.cid
        self._local_active_connection_id_limit = limits.max_active_cids
        self._local_max_streams_bidi = Limit(
            frame_type=QuicFrameType.MAX_STREAMS_BIDI, name="max_streams_bidi", value=limits.max_streams_bidi
        )
        self._local_max_streams_uni = Limit(
            frame_type=QuicFrameType.MAX_STREAMS_UNI, name="max_streams_uni", value=limits.max_streams_uni
        )
        self.adapter = TlsAdapter(self, limits.max_crypto_bytes, accepted)
        self.adapter.handshake = make_handshake(self.adapter)

    # --- for the adapter: `Carrier` -----------------------------------------------------------------------------------

    def encoded_parameters(self) -> bytes:
        """Return our transport parameters."""
        return self._parameters

    def apply_peer_parameters(self, data: bytes) -> None:
        """Apply the peer's. Raises QuicConnectionError."""
        if has_repeated_parameter(data):
            reason = "a transport parameter twice"
            raise QuicConnectionError(QuicErrorCode.TRANSPORT_PARAMETER_ERROR, QuicFrameType.CRYPTO, reason)
        self._parse_transport_parameters(data)

    def install_key(self, direction: Any, epoch: Any, cipher_suite: Any, secret: bytes) -> None:
        """Install a traffic secret."""
        self._update_traffic_key(direction, epoch, cipher_suite, secret)

    def send_crypto(self, epoch: Any, data: bytes) -> None:
        """Queue TLS bytes."""
        self._crypto_streams[epoch].sender.write(data)

    # --- for the edge -------------------------------------------------------------------------------------------------

    @property
    def nothing_decrypted(self) -> bool:
        """No packet of the first datagram could be decrypted: it was not a QUIC Initial."""
        return self._remote_initial_source_connection_id is None

    @property
    def close_event(self) -> Any:
        """Why it closes, as soon as that is known. (Stock reports it only when the closing period is over.)"""
        return self._close_event

    @property
    def close_pending(self) -> bool:
        """CONNECTION_CLOSE has yet to be sent."""
        return bool(self._close_pending)

    @property
    def draining(self) -> bool:
        """The peer closed it."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def terminated(self) -> bool:
        """It ended without a packet: idle, or no path is left."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def idled_out(self) -> bool:
        """Nothing came for the idle timeout. (aioquic tells it only by the reason phrase.)"""
        return self.terminated and self._close_event.reason_phrase == "Idle timeout"

    @property
    def active_path(self) -> Any:
        """Where packets go now."""
        return self._network_paths[0].addr

    @property
    def probe_timeout_s(self) -> float:
        """The PTO (RFC 9002 section 6.2.1)."""
        return float(self._loss.get_probe_timeout())

    @property
    def idle_timeout_s(self) -> float:
        """What both sides agreed on."""
        return float(self._idle_timeout())

    @property
    def peer_opened_requests(self) -> int:
        """How many request streams the peer has opened; a frame on stream 396 opens a hundred."""
        return int(self._local_max_streams_bidi.used)

    def rename(self) -> bool:
        """Give the peer as many new ids as it may have, and have it retire all others.

        It may have more than its limit for a moment: each frame asks to retire the excess (RFC 9000 section 5.1.1).
        False: it has not retired those of the last time yet, and gets no more before that.
        """
        if len(self._host_cids) > self._most_ids:
            return False
        self._retire_prior_to = self._host_cid_seq
        for _ in range(self._most_ids):
            self._host_cids.append(ids.quic_id(self._issue_id(), self._host_cid_seq))
            self._host_cid_seq += 1
        return True

    @property
    def _most_ids(self) -> int:
        return int(min(self._limits.max_active_cids, self._remote_active_connection_id_limit))

    def stream_ids(self) -> frozenset[int]:
        """Return the ids of all streams that are not finished."""
        return frozenset(self._streams)

    # --- overrides ----------------------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._parameters = self.tls.handshake_extensions[0][1]
        self.tls: Any = self.adapter
        # The adapter writes to the streams; without buffers there is nothing to push.
        self._crypto_buffers: dict[Any, Buffer] = {}
        if self._address_validated:
            self._network_paths[0].is_validated = True
        self.bound_crypto_gaps()

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        self.adapter.level = LEVEL_OF[context.epoch]
        super()._handle_crypto_frame(context, frame_type, buf)

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < self._most_ids:
            self._host_cids.append(ids.quic_id(self._issue_id(), self._host_cid_seq))
            self._host_cid_seq += 1

    def _handle_retire_connection_id_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        position = buf.tell()
        sequence_number = buf.pull_uint_var()
        buf.seek(position)
        if sequence_number > self._highest_sent_id:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "retired a connection ID before it was sent"
            )
        super()._handle_retire_connection_id_frame(context, frame_type, buf)

    def _write_new_connection_id_frame(self, builder: QuicPacketBuilder, connection_id: QuicConnectionId) -> None:
        # Stock writes Retire Prior To as 0.
        sequence_number = connection_id.sequence_number
        frame = builder.start_frame(
            QuicFrameType.NEW_CONNECTION_ID,
            capacity=_NEW_CONNECTION_ID_BYTES,
            handler=self._on_new_connection_id_delivery,
            handler_args=(connection_id,),
        )
        frame.push_uint_var(sequence_number)
        # An old id that is repeated: more than its own number would be an error (RFC 9000 section 19.15).
        frame.push_uint_var(min(self._retire_prior_to, sequence_number))
        frame.push_uint8(len(connection_id.cid))
        frame.push_bytes(connection_id.cid)
        frame.push_bytes(connection_id.stateless_reset_token)
        connection_id.was_sent = True
        self._highest_sent_id = max(self._highest_sent_id, sequence_number)

    def _write_handshake_done_frame(self, builder: QuicPacketBuilder) -> None:
        super()._write_handshake_done_frame(builder)
        self._token = self._token or self._address_token(self.active_path)
        if self._token:
            frame = builder.start_frame(QuicFrameType.NEW_TOKEN, capacity=3 + len(self._token))
            frame.push_uint_var(len(self._token))
            frame.push_bytes(self._token)
