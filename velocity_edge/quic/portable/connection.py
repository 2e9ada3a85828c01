"""aioquic's QuicConnection (1.7.2) as a server of ours: each override closes a hole or adds what stock lacks.

    _initialize                    our TLS in the place of aioquic's; an address that a token proved counts as validated
    _handle_crypto_frame           CRYPTO ahead of what is complete is bounded (stock: 512 KiB per spoofed Initial)
    receive_datagram               a client's address changes a few times per second at most
    _flush_builder                 what was sent and is never acknowledged is bounded
    _get_or_create_stream          so are the pieces of a stream, and finding one's place is cheap (pieces.py)
    _replenish_connection_ids      ids and reset tokens of ours, few of them
    _handle_retire_connection_id_frame  an id that was never sent cannot be given back (stock issues a new one for each:
                                   four hundred in one packet)
    _write_new_connection_id_frame Retire Prior To, so that clients move to ids of new keys (stock: always 0)
    _write_handshake_done_frame    NEW_TOKEN rides with HANDSHAKE_DONE, and is repeated with it when lost

Receive windows are windows.py's. `velocity_edge/quic/compat.py` pins the source of all overridden methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from aioquic.buffer import Buffer
from aioquic.h3.connection import ErrorCode
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.datagrams import Accept
from velocity_edge.quic.demux import SUPPORTED_VERSIONS
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.congestion import NAMES
from velocity_edge.quic.portable.ids import NewId
from velocity_edge.quic.portable.pieces import Pieces
from velocity_edge.quic.portable.tls import LEVEL_OF, HandshakeFactory, TlsAdapter
from velocity_edge.quic.portable.windows import SlidingWindows
from velocity_edge.wire.cid import CID_LENGTH

#: Of one frame with ids of 20 bytes: type 1, numbers 8 and 8, length 1, id 20, reset token 16.
_NEW_CONNECTION_ID_BYTES: Final = 54
#: Twice of what is registered; as many as the native engine looks through.
_MAX_PARAMETERS: Final = 64
#: Sent packets that are looked through for those that need not be kept; then when they have doubled.
_MANY_PACKETS: Final = 128


def server_configuration(limits: Limits, congestion_control: str) -> QuicConfiguration:
    """Return what all server connections share."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=["h3"],
        congestion_control_algorithm=NAMES[congestion_control],
        connection_id_length=CID_LENGTH,
        idle_timeout=limits.idle_timeout_s,
        max_data=limits.connection_window_bytes,
        max_stream_data=limits.stream_window_bytes,
    )
    configuration.supported_versions = list(SUPPORTED_VERSIONS)
    # QuicConnection insists on both; our TLS has its own.
    configuration.certificate = configuration.private_key = "in ServerPolicy"
    return configuration


class EdgeConnection(SlidingWindows):
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
            configuration=configuration,
            original_destination_connection_id=original_dcid,
            retry_source_connection_id=retry_scid,
        )
        self.use_windows(stream_bytes=limits.stream_window_bytes, connection_bytes=limits.connection_window_bytes)
        self._limits = limits
        self._issue_id = issue_id
        self._address_token = address_token
        self._address_validated = accepted.address_validated
        self._parameters = b""
        self._token = b""
        self._highest_sent_id = 0
        self._retire_prior_to = 0
        self._gaps_left = limits.max_connection_gaps
        self._migrations = PerSecond(limits.max_migrations_per_s)
        self._most_in_flight = 0
        self._tidy_above = _MANY_PACKETS
        #: Datagrams from yet another address that were dropped.
        self.migrations_refused = 0
        #: It was closed because the peer made us hold too much.
        self.memory_exceeded = False
        self._host_cids = [_connection_id(first_id, 0, was_sent=True)]
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

    def use_limits(self, limits: Limits) -> None:
        """Live by other limits, as far as nothing was promised to the peer."""
        self._migrations.limit = limits.max_migrations_per_s

    # --- what the adapter asks ----------------------------------------------------------------------------------------

    def encoded_parameters(self) -> bytes:
        """Return our transport parameters."""
        return self._parameters

    def apply_peer_parameters(self, data: bytes) -> None:
        """Apply the peer's. Raises QuicConnectionError."""
        if _repeated(data):
            reason = "a transport parameter twice"
            raise QuicConnectionError(QuicErrorCode.TRANSPORT_PARAMETER_ERROR, QuicFrameType.CRYPTO, reason)
        self._parse_transport_parameters(data)

    def install_key(self, direction: Any, epoch: Any, cipher_suite: Any, secret: bytes) -> None:
        """Install a traffic secret."""
        self._update_traffic_key(direction, epoch, cipher_suite, secret)

    def send_crypto(self, epoch: Any, data: bytes) -> None:
        """Queue TLS bytes."""
        self._crypto_streams[epoch].sender.write(data)

    # --- what the edge asks -------------------------------------------------------------------------------------------

    @property
    def nothing_decrypted(self) -> bool:
        """The first datagram opened nothing: it was not a QUIC Initial after all."""
        return self._remote_initial_source_connection_id is None

    @property
    def handshake_complete(self) -> bool:
        """The client's Finished verified."""
        return bool(self._handshake_complete)

    @property
    def close_event(self) -> Any:
        """Why it closes, as soon as that is known (stock reports it only when the closing period is over)."""
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
        """It ended in silence: idle, or no path is left."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def idled_out(self) -> bool:
        """Nothing came for the idle timeout. (aioquic gives this no name but the phrase.)"""
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
        False: it has not retired those of the last time, and gets no more before.
        """
        if len(self._host_cids) > self._most_ids:
            return False
        self._retire_prior_to = self._host_cid_seq
        for _ in range(self._most_ids):
            self._host_cids.append(_connection_id(self._issue_id(), self._host_cid_seq))
            self._host_cid_seq += 1
        return True

    @property
    def _most_ids(self) -> int:
        return int(min(self._limits.max_active_cids, self._remote_active_connection_id_limit))

    def stream_ids(self) -> frozenset[int]:
        """Return the ids of all streams that are not finished."""
        return frozenset(self._streams)

    # --- overrides ----------------------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take one datagram, unless it comes from too many places."""
        active = self._network_paths[0].addr if self._network_paths else addr
        if addr == active:
            super().receive_datagram(data, addr, now)
            return
        now_ns = int(now * 1e9)
        if self._migrations.spent(now_ns):
            self.migrations_refused += 1
            return
        known = any(path.addr == addr for path in self._network_paths)
        super().receive_datagram(data, addr, now)
        # aioquic knows a path once an authentic packet came by it; late packets of the path before are free.
        moved = self._network_paths[0].addr != active
        if moved or (not known and any(path.addr == addr for path in self._network_paths)):
            self._migrations.take(now_ns)

    def _flush_builder(self, *args: Any, **options: Any) -> Any:
        sent = super()._flush_builder(*args, **options)
        packets = self._spaces[Epoch.ONE_RTT].sent_packets
        self._most_in_flight = max(self._most_in_flight, self._loss.bytes_in_flight)
        if len(packets) > self._tidy_above:
            # Packets that only acknowledge: nobody sends them again, and a peer need never acknowledge them.
            for number in [number for number, packet in packets.items() if not packet.in_flight]:
                del packets[number]
            self._tidy_above = max(_MANY_PACKETS, 2 * len(packets))
            if len(packets) > self._limits.max_unacked_packets + self._most_in_flight // 256:
                self.memory_exceeded = True
                self.close(ErrorCode.H3_EXCESSIVE_LOAD, None, "too many packets are not acknowledged")
        return sent

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._parameters = self.tls.handshake_extensions[0][1]
        self.tls: Any = self.adapter
        # The adapter writes to the streams; without buffers there is nothing to push.
        self._crypto_buffers: dict[Any, Buffer] = {}
        if self._address_validated:
            self._network_paths[0].is_validated = True
        for stream in self._crypto_streams.values():
            stream.receiver._ranges = Pieces(self._check_crypto_gaps)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream: QuicStream = super()._get_or_create_stream(frame_type, stream_id)
        receiver: Any = stream.receiver
        if not isinstance(receiver._ranges, Pieces):
            receiver._ranges = Pieces(self._check_gaps)
        return stream

    def _check_crypto_gaps(self, gaps: int) -> None:
        if gaps > self._limits.max_crypto_gaps:
            self._too_many_pieces(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, QuicFrameType.CRYPTO)

    def _check_gaps(self, gaps: int) -> None:
        self._gaps_left -= 1
        if self._gaps_left < 0:
            # Counted down only: what was filled meanwhile shows when all are counted again.
            waiting = sum(len(stream.receiver._ranges) for stream in self._streams.values())
            self._gaps_left = self._limits.max_connection_gaps - waiting - 1
        if self._gaps_left < 0 or gaps > self._limits.max_stream_gaps:
            self._too_many_pieces(ErrorCode.H3_EXCESSIVE_LOAD, None)

    def _too_many_pieces(self, error_code: int, frame_type: int | None) -> NoReturn:
        self.memory_exceeded = True
        self.close(error_code=error_code, frame_type=frame_type, reason_phrase="too many pieces")
        # Ends the packet; the connection keeps the first reason.
        raise QuicConnectionError(error_code, QuicFrameType.PADDING, "too many pieces")

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        position = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(position)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > self._limits.max_crypto_bytes:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much CRYPTO data")
        self.adapter.level = LEVEL_OF[context.epoch]
        super()._handle_crypto_frame(context, frame_type, buf)

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < self._most_ids:
            self._host_cids.append(_connection_id(self._issue_id(), self._host_cid_seq))
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


def _connection_id(new: NewId, sequence_number: int, *, was_sent: bool = False) -> QuicConnectionId:
    return QuicConnectionId(
        cid=new.cid,
        sequence_number=sequence_number,
        # aioquic wants 16 bytes; zeros match nothing that anybody can send (we answer no reset without a key).
        stateless_reset_token=new.reset_token or bytes(16),
        was_sent=was_sent,
    )


def _repeated(data: bytes) -> bool:
    """RFC 9000 section 7.4: no parameter twice (stock takes the last one). What cannot be read is stock's to refuse."""
    buffer = Buffer(data=data)
    seen: set[int] = set()
    try:
        while not buffer.eof():
            name = buffer.pull_uint_var()
            if name in seen or len(seen) == _MAX_PARAMETERS:
                return True
            seen.add(name)
            buffer.pull_bytes(buffer.pull_uint_var())
    except ValueError:
        return False
    return False
