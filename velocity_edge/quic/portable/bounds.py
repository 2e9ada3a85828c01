"""Bounds on what a client makes aioquic's QuicConnection (1.7.2) hold or do: each override closes a hole of stock.

    _handle_crypto_frame    CRYPTO ahead of what is complete is bounded (stock: 512 KiB per spoofed Initial)
    receive_datagram        a client's address changes a few times per second at most
    _flush_builder          what was sent and is never acknowledged is bounded
    _get_or_create_stream   so are the pieces of a stream, and a position in them is found cheaply (pieces.py)

Receive windows are windows.py's. `velocity_edge/quic/compat.py` pins the source of all overridden methods.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from aioquic.buffer import Buffer
from aioquic.h3.connection import ErrorCode
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.pieces import Pieces
from velocity_edge.quic.portable.windows import SlidingWindows

#: Sent packets that are looked through for those that need not be kept; then when they have doubled.
_MANY_PACKETS: Final = 128
#: Twice of what is registered; as many as the native engine looks through.
_MAX_PARAMETERS: Final = 64


class BoundedConnection(SlidingWindows):
    """A server connection within `Limits`."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        """*options* are QuicConnection's."""
        super().__init__(**options)
        self.use_windows(stream_bytes=limits.stream_window_bytes, connection_bytes=limits.connection_window_bytes)
        self._limits = limits
        self._gaps_left = limits.max_connection_gaps
        self._migrations = PerSecond(limits.max_migrations_per_s)
        self._most_in_flight = 0
        self._tidy_above = _MANY_PACKETS
        #: Datagrams from yet another address that were dropped.
        self.migrations_refused = 0
        #: It was closed because the peer made us hold too much.
        self.memory_exceeded = False

    def use_limits(self, limits: Limits) -> None:
        """Use other limits, as far as nothing was promised to the peer."""
        self._migrations.limit = limits.max_migrations_per_s

    def bound_crypto_gaps(self) -> None:
        """Bound the pieces of each CRYPTO stream, once aioquic has made them."""
        for stream in self._crypto_streams.values():
            stream.receiver._ranges = Pieces(self._check_crypto_gaps)

    # --- overrides ----------------------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take one datagram, unless the client changes its address too often."""
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
            # Packets with nothing but ACKs are not sent again, and a peer need never acknowledge them.
            for number in [number for number, packet in packets.items() if not packet.in_flight]:
                del packets[number]
            self._tidy_above = max(_MANY_PACKETS, 2 * len(packets))
            if len(packets) > self._limits.max_unacked_packets + self._most_in_flight // 256:
                self.memory_exceeded = True
                self.close(ErrorCode.H3_EXCESSIVE_LOAD, None, "too many packets are not acknowledged")
        return sent

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
            # It is only counted down: gaps that were filled meanwhile show when all are counted again.
            waiting = sum(len(stream.receiver._ranges) for stream in self._streams.values())
            self._gaps_left = self._limits.max_connection_gaps - waiting - 1
        if self._gaps_left < 0 or gaps > self._limits.max_stream_gaps:
            self._too_many_pieces(ErrorCode.H3_EXCESSIVE_LOAD, None)

    def _too_many_pieces(self, error_code: int, frame_type: int | None) -> NoReturn:
        self.memory_exceeded = True
        self.close(error_code=error_code, frame_type=frame_type, reason_phrase="too many gaps in received data")
        # Ends the packet; the connection keeps the first reason.
        raise QuicConnectionError(error_code, QuicFrameType.PADDING, "too many gaps in received data")

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        position = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(position)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > self._limits.max_crypto_bytes:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much CRYPTO data")
        super()._handle_crypto_frame(context, frame_type, buf)


def has_repeated_parameter(data: bytes) -> bool:
    """Whether a parameter comes twice (RFC 9000 section 7.4; stock takes the last). Stock refuses what is malformed."""
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
