"""HTTP/3 framing of one connection: aioquic's H3Connection, bounded, and with what it lacks.

    QPACK without dynamic tables   one byte must not become four kilobytes (78 MB out of 20 kB on stock aioquic)
    bounded field sections         refused by their announced size, before they are buffered; and as decoded
    bounded control frames
    GOAWAY                         stock aioquic neither sends it nor minds it
    errors of a stream             stay with the stream: `StreamError`; stock closes the connection

Requests come out as `RequestHead`; what a valid one is decides message.py. Answers do not go through aioquic: with no
dynamic table a response is a HEADERS frame and a DATA frame on the stream (`head_frame`, `data_frame`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import (
    ErrorCode,
    FrameType,
    FrameUnexpected,
    H3Connection,
    H3Stream,
    HeadersState,
    ProtocolError,
    Setting,
    encode_frame,
    parse_settings,
)
from aioquic.h3.events import HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.message import Field, Head, Malformed, check_trailers, field_section_size, parse_head

#: RFC 9114 section 5.2: "a server ... MAY send a GOAWAY with the largest id", which forbids nothing yet.
_ALL_REQUESTS: Final = (1 << 62) - 4


class ExcessiveLoad(ProtocolError):
    """The peer makes us work or remember too much."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class StreamError(Exception):
    """One request is refused; the connection goes on."""

    def __init__(self, error_code: int, reason: str) -> None:
        super().__init__(reason)
        self.error_code = int(error_code)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A valid request on a stream."""

    stream_id: int
    head: Head
    fin: bool


class EdgeH3(H3Connection):
    """The server's side."""

    def __init__(self, quic: QuicConnection, limits: Limits) -> None:
        self._limits = limits
        self.last_request_id = -4
        self._refuse_from: int | None = None
        super().__init__(quic)

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, event: StreamDataReceived) -> list[Any]:
        """Take stream data; return `RequestHead`, `DataReceived`, `HeadersReceived` (trailers).

        Raises `StreamError`, after which the stream must be reset and `forget` called. An error of the connection
        closes it (aioquic's `handle_event`).
        """
        if self._refuse_from is not None and event.stream_id % 4 == 0 and event.stream_id >= self._refuse_from:
            raise StreamError(ErrorCode.H3_REQUEST_REJECTED, "after the final GOAWAY")
        return list(self.handle_event(event))

    def forget(self, stream_id: int) -> None:
        """Drop what is held for a stream that is over."""
        self._stream.pop(stream_id, None)

    def _handle_request_or_push_frame(
        self, frame_type: int, frame_data: bytes | None, stream: H3Stream, stream_ended: bool
    ) -> list[Any]:
        if frame_type != FrameType.HEADERS:
            # A body that does not fit its content-length spoils one request (RFC 9114 section 4.1.2).
            if stream.expected_content_length is not None:
                total = stream.content_length + len(frame_data or b"")
                if total > stream.expected_content_length:
                    raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "more than content-length")
            events: list[Any] = super()._handle_request_or_push_frame(frame_type, frame_data, stream, stream_ended)
            return events
        if stream.headers_recv_state == HeadersState.AFTER_TRAILERS:
            raise FrameUnexpected("HEADERS frame is not allowed in this state")
        section: list[Field] = self._decode_headers(stream.stream_id, frame_data)
        if field_section_size(section) > self._limits.max_field_section_bytes:
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "field section too large")
        try:
            if stream.headers_recv_state == HeadersState.INITIAL:
                head = parse_head(section)
                stream.expected_content_length = head.content_length
                stream.headers_recv_state = HeadersState.AFTER_HEADERS
                event: Any = RequestHead(stream.stream_id, head, stream_ended)
            else:
                check_trailers(section)
                stream.headers_recv_state = HeadersState.AFTER_TRAILERS
                event = HeadersReceived(headers=[], stream_id=stream.stream_id, stream_ended=stream_ended)
        except Malformed as error:
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, str(error)) from None
        if stream_ended:
            self._check_content_length(stream)
        self.last_request_id = max(self.last_request_id, stream.stream_id)
        return [event]

    def _check_content_length(self, stream: H3Stream) -> None:
        if stream.expected_content_length not in (None, stream.content_length):
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "less than content-length")

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type == FrameType.HEADERS and stream.frame_size > self._limits.max_field_section_bytes:
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "field section too large")
        if frame_type == FrameType.WEBTRANSPORT_STREAM:
            # Never offered; stock aioquic would take it and everything that follows.
            raise FrameUnexpected("WebTransport was not negotiated")

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        stream = self._stream.get(self._peer_control_stream_id)
        if (
            stream is not None
            and frame_type in (FrameType.SETTINGS, FrameType.MAX_PUSH_ID)
            and stream.frame_size > self._limits.max_control_frame_bytes
        ):
            raise ExcessiveLoad("control frame too large")

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type != FrameType.SETTINGS:
            super()._handle_control_frame(frame_type, frame_data)
            return
        # As stock, but our encoder uses no dynamic table either, whatever the peer would lend us.
        settings = parse_settings(frame_data)
        self._validate_settings(settings)
        self._received_settings = settings
        self._settings_received = True

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: self._limits.max_field_section_bytes,
        }

    # --- sending ------------------------------------------------------------------------------------------------------

    def head_frame(self, stream_id: int, status: int, headers: Iterable[Field]) -> bytes:
        """Return the HEADERS frame of a response."""
        _, section = self._encoder.encode(stream_id, [(b":status", b"%d" % status), *headers])
        frame: bytes = encode_frame(FrameType.HEADERS, section)
        return frame

    def goaway(self, *, final: bool) -> None:
        """RFC 9114 section 5.2: first "soon", then the first request that will not be processed."""
        limit = self.last_request_id + 4 if final else _ALL_REQUESTS
        if final:
            self._refuse_from = limit
        self._quic.send_stream_data(
            self._local_control_stream_id, encode_frame(FrameType.GOAWAY, encode_uint_var(limit))
        )


def data_frame_header(length: int) -> bytes:
    """Return what precedes *length* bytes of a body."""
    header: bytes = b"\x00" + encode_uint_var(length)
    return header
