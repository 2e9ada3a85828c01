"""HTTP/3 framing of one connection: aioquic's H3Connection, bounded, and with what it lacks.

    QPACK without dynamic tables   one byte must not expand to four kilobytes (stock aioquic: 20 kB to 78 MB)
    bounded field sections         refused by their announced size, before they are buffered; and as decoded
    the peer's other streams       read whole by control.py
    GOAWAY                         stock aioquic does not send it
    errors of a stream             end the stream only: `StreamError`; stock closes the connection

Requests come out as `RequestHead`; velocity_edge/http/message.py decides what a valid one is. Answers do not go through
aioquic: with no dynamic table a response is a HEADERS frame and a DATA frame on the stream (`head_frame`,
`data_frame_header`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    QpackDecompressionFailed,
    Setting,
    encode_frame,
)
from aioquic.h3.events import HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from velocity_edge.http.message import (
    Field,
    Head,
    Malformed,
    check_answer,
    check_answer_trailers,
    check_trailers,
    field_section_size,
    parse_head,
)
from velocity_edge.http.requests import Headers
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.control import PRIORITY_UPDATE, PRIORITY_UPDATE_PUSH, PeerStreams

#: RFC 9114 section 5.2: "a server ... MAY send a GOAWAY with the largest id", which forbids nothing yet.
_ALL_REQUESTS: Final = (1 << 62) - 4
#: A field section above what the peer was told gets a 431 (RFC 6585 section 5); one above this many times is not read.
_HARD_BOUND: Final = 4
#: What nghttp3's QPACK decoder, the other engine's, takes.
_MAX_NAME_BYTES: Final = 256


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
    #: Its fields are more than the peer was told; they are not in `head`.
    too_large: bool = False


class EdgeH3(H3Connection):
    """The server's side."""

    def __init__(self, quic: QuicConnection, limits: Limits) -> None:
        self._limits = limits
        self.last_request_id = -4
        self._refuse_from: int | None = None
        self._peer = PeerStreams(
            limits.max_control_frame_bytes, lambda: int(quic._local_max_streams_bidi.value), quic.stop_stream
        )
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
        section = self._section(stream.stream_id, frame_data or b"")
        size_bytes, limit_bytes = field_section_size(section), self._limits.max_field_section_bytes
        request = stream.headers_recv_state == HeadersState.INITIAL
        if size_bytes > limit_bytes * (_HARD_BOUND if request else 1):
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "field section too large")
        try:
            if request:
                head = parse_head(section)
                stream.expected_content_length = head.content_length
                stream.headers_recv_state = HeadersState.AFTER_HEADERS
                too_large = size_bytes > limit_bytes
                if too_large:
                    head = replace(head, scheme=b"", authority=b"", path=b"", fields=[], protocol=b"")
                event: Any = RequestHead(stream.stream_id, head, stream_ended, too_large)
            else:
                check_trailers(section)
                stream.headers_recv_state = HeadersState.AFTER_TRAILERS
                event = HeadersReceived(headers=section, stream_id=stream.stream_id, stream_ended=stream_ended)
        except Malformed as error:
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, str(error)) from None
        if stream_ended:
            self._check_content_length(stream)
        self.last_request_id = max(self.last_request_id, stream.stream_id)
        return [event]

    def _section(self, stream_id: int, data: bytes) -> list[Field]:
        # Insert Count 0 leaves no base to go back from (RFC 9204 section 4.5.1.2), which pylsqpack does not mind.
        if data[:1] == b"\0" and len(data) > 1 and data[1] & 0x80:
            raise QpackDecompressionFailed("negative base")
        # The prefix alone is an empty section, which pylsqpack calls an error (RFC 9204 section 4.5).
        if len(data) == 2 and data[0] == 0 and data[1] < 0x7F:
            return []
        if not data:
            raise QpackDecompressionFailed("field section without a prefix")
        section: list[Field] = self._decode_headers(stream_id, data)
        if any(len(name) > _MAX_NAME_BYTES for name, _ in section):
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "field name too long")
        return section

    def _abort_incomplete_request(self, stream_id: int) -> None:
        raise StreamError(ErrorCode.H3_REQUEST_INCOMPLETE, "no request before the stream's end")

    def _check_content_length(self, stream: H3Stream) -> None:
        if stream.expected_content_length not in (None, stream.content_length):
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "less than content-length")

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type in (PRIORITY_UPDATE, PRIORITY_UPDATE_PUSH):
            raise FrameUnexpected("PRIORITY_UPDATE on a request stream")
        if frame_type == FrameType.DATA and stream.headers_recv_state != HeadersState.AFTER_HEADERS:
            raise FrameUnexpected("DATA outside of a message")
        if frame_type == FrameType.HEADERS and stream.frame_size > _HARD_BOUND * self._limits.max_field_section_bytes:
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "field section too large")
        if frame_type == FrameType.WEBTRANSPORT_STREAM:
            # Never offered; stock aioquic would accept it and everything that follows.
            raise FrameUnexpected("WebTransport was not negotiated")

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[Any]:
        self._peer.receive(stream.stream_id, data, stream_ended)
        if stream_ended:
            stream.receiving_ended = True
        return []

    def _receive_stream_reset(self, stream_id: int) -> None:
        if stream_id % 4 == 2:
            self._peer.end(stream_id)
            self.forget(stream_id)

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: self._limits.max_field_section_bytes,
            Setting.ENABLE_CONNECT_PROTOCOL: 1,  # RFC 9220 section 3
        }

    # --- sending ------------------------------------------------------------------------------------------------------

    def head_frame(self, stream_id: int, status: int, headers: Headers) -> bytes:
        """Return the HEADERS frame of a response. Raises `ValueError`."""
        check_answer(status, headers)
        return self._headers_frame(stream_id, [(b":status", b"%d" % status), *headers])

    def trailers_frame(self, stream_id: int, fields: Headers) -> bytes:
        """Return the HEADERS frame that ends a response. Raises `ValueError`."""
        check_answer_trailers(fields)
        return self._headers_frame(stream_id, list(fields))

    def _headers_frame(self, stream_id: int, fields: list[Field]) -> bytes:
        _, section = self._encoder.encode(stream_id, fields)
        frame: bytes = encode_frame(FrameType.HEADERS, section)
        return frame

    def goaway(self, *, final: bool) -> None:
        """Send GOAWAY (RFC 9114 section 5.2): first with the largest id, then with the first request not processed."""
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
