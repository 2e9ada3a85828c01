"""Receive windows that slide with what was consumed, for aioquic's QuicConnection on either side.

Stock doubles a limit when half of it is behind the *highest offset seen*: a peer that sends one byte at the end of the
window, seven times, makes it buffer 72 MiB, and so on without end (aioquic #589). Here a limit is what was consumed
plus a constant window, so a peer that is faster than its reader waits: that is the back-pressure.

Stock decides inside the two overridden methods by `used` and `highest_offset`. They are zero while it runs, so that it
only writes the frames.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream


class SlidingWindows(QuicConnection):
    """Call `use_windows` once, then `consume` for everything that was read."""

    _consumed_bytes = 0
    _stream_window = 0
    _connection_window = 0

    def use_windows(self, *, stream_bytes: int, connection_bytes: int) -> None:
        """Set the sizes; the same as in the configuration, which announces them to the peer."""
        self._stream_window, self._connection_window = stream_bytes, connection_bytes

    def stream(self, stream_id: int) -> QuicStream | None:
        """Return a stream that is not finished, or None."""
        return self._streams.get(stream_id)

    def consume(self, stream_id: int, n_bytes: int) -> None:
        """Count received data as consumed: the windows slide."""
        self._consumed_bytes += n_bytes
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.receiver.consumed_bytes = _consumed(stream) + n_bytes

    def consume_all(self, stream_id: int) -> None:
        """Count all of a stream as consumed that will not be read, what a reset skipped included."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self.consume(stream_id, stream.receiver.highest_offset - _consumed(stream))

    # --- overrides ----------------------------------------------------------------------------------------------------

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: Any) -> None:
        limit, window = self._local_max_data, self._connection_window
        wanted = self._consumed_bytes + window
        if wanted - limit.value >= window // 2:
            limit.value = wanted
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> None:
        receiver, window = stream.receiver, self._stream_window
        if not stream.max_stream_data_local or receiver.is_finished:
            return
        wanted = _consumed(stream) + window
        if wanted - stream.max_stream_data_local >= window // 2:
            stream.max_stream_data_local = wanted
        highest_offset, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest_offset


def _consumed(stream: QuicStream) -> int:
    """Return the consumed bytes of *stream*. The count is kept on aioquic's object and is freed with it."""
    return getattr(stream.receiver, "consumed_bytes", 0)
