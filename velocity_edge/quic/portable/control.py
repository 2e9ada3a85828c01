"""The peer's unidirectional streams: control, QPACK encoder and decoder, and unknown types. Pure.

The twin of velocity_edge/quic/native/control.c. aioquic discards GOAWAY, CANCEL_PUSH and PRIORITY_UPDATE unread and
lets the QPACK streams end; here each frame is checked as RFC 9114 section 7.2 and RFC 9218 section 7.2 require.
Priorities are checked and not followed: this engine sends fairly. An error is raised as aioquic's `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import (
    RESERVED_FRAME_TYPES,
    ClosedCriticalStream,
    ErrorCode,
    FrameError,
    FrameType,
    FrameUnexpected,
    IdError,
    MissingSettingsError,
    ProtocolError,
    QpackDecoderStreamError,
    QpackEncoderStreamError,
    Setting,
    SettingsError,
    StreamCreationError,
    StreamType,
    parse_settings,
)

PRIORITY_UPDATE: Final = 0xF0700
PRIORITY_UPDATE_PUSH: Final = 0xF0701
_BOOLEANS: Final = (Setting.ENABLE_CONNECT_PROTOCOL, Setting.H3_DATAGRAM)
_ONE_ID: Final = (FrameType.GOAWAY, FrameType.MAX_PUSH_ID, FrameType.CANCEL_PUSH)
_CRITICAL: Final = (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER)
#: QPACK's Set Dynamic Table Capacity to 0: all that may be said of a table that was not offered.
_CAPACITY_0: Final = 0x20
#: A 62-bit integer behind a prefix of 6 bits (RFC 9204 section 4.1.1).
_MAX_INTEGER_BYTES: Final = 9


class ExcessiveLoad(ProtocolError):
    """The peer causes too much work or state."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


@dataclass(slots=True)
class _Uni:
    """One stream. `buffer` is what is not read yet: less than an integer, or a frame within its bound."""

    kind: int | None = None
    buffer: bytes = b""
    #: Of an unknown frame: bytes to discard.
    skip_bytes: int = 0
    #: Of the decoder stream: bytes that may still follow in a Stream Cancellation.
    integer_left: int = 0


class PeerStreams:
    """All unidirectional streams of one peer, a client."""

    def __init__(
        self, max_frame_bytes: int, max_requests: Callable[[], int], stop: Callable[[int, ErrorCode], None]
    ) -> None:
        """*max_requests*: how many request streams the peer may have opened so far, in all. *stop* asks it to stop."""
        self._max_frame_bytes = max_frame_bytes
        self._max_requests = max_requests
        self._stop = stop
        self._streams: dict[int, _Uni] = {}
        #: Kinds of critical streams that are open.
        self._kinds: set[int] = set()
        self._settings = False
        self._goaway: int | None = None
        self._max_push_id: int | None = None

    def receive(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Take bytes of a stream. Raises `ProtocolError`."""
        uni = self._streams.setdefault(stream_id, _Uni())
        uni.buffer += data
        if uni.kind is None:
            self._begin(stream_id, uni, fin)
        if uni.kind == StreamType.CONTROL:
            self._control(uni)
        elif uni.kind == StreamType.QPACK_ENCODER:
            if uni.buffer.strip(bytes((_CAPACITY_0,))):
                raise QpackEncoderStreamError("a dynamic table was not offered")
            uni.buffer = b""
        elif uni.kind == StreamType.QPACK_DECODER:
            _decoder(uni)
        elif uni.kind is not None:
            uni.buffer = b""
        if fin:
            self.end(stream_id)

    def end(self, stream_id: int) -> None:
        """The stream ended or was reset: a critical one may not. Raises `ProtocolError`."""
        uni = self._streams.pop(stream_id, None)
        if uni is not None and uni.kind in _CRITICAL:
            raise ClosedCriticalStream("a critical stream was closed")

    def _begin(self, stream_id: int, uni: _Uni, fin: bool) -> None:
        buf = Buffer(data=uni.buffer)
        try:
            kind = buf.pull_uint_var()
        except BufferReadError:
            return
        uni.buffer = uni.buffer[buf.tell() :]
        uni.kind = kind
        if kind == StreamType.PUSH or kind in self._kinds:
            raise StreamCreationError("a stream of this type may not be opened")
        if kind in _CRITICAL:
            self._kinds.add(kind)
        elif not fin:
            self._stop(stream_id, ErrorCode.H3_STREAM_CREATION_ERROR)  # RFC 9114 section 6.2.3

    def _control(self, uni: _Uni) -> None:
        while uni.buffer:
            skipped = min(uni.skip_bytes, len(uni.buffer))
            if skipped:
                uni.skip_bytes -= skipped
                uni.buffer = uni.buffer[skipped:]
                continue
            buf = Buffer(data=uni.buffer)
            try:
                kind, length = buf.pull_uint_var(), buf.pull_uint_var()
            except BufferReadError:
                return
            known = self._check(kind, length)
            if not known:
                uni.skip_bytes = length
            elif length > buf.capacity - buf.tell():
                return
            else:
                self._frame(kind, buf.pull_bytes(length))
            uni.buffer = uni.buffer[buf.tell() :]

    def _check(self, kind: int, length: int) -> bool:
        """Check a frame by its type and length; return whether its payload is needed."""
        if not self._settings and kind != FrameType.SETTINGS:
            raise MissingSettingsError("the first frame is not SETTINGS")
        if kind in (FrameType.DATA, FrameType.HEADERS, FrameType.PUSH_PROMISE, *RESERVED_FRAME_TYPES) or (
            self._settings and kind == FrameType.SETTINGS
        ):
            raise FrameUnexpected("frame that is not for the control stream")
        if kind == PRIORITY_UPDATE_PUSH:
            raise IdError("PRIORITY_UPDATE of a push")
        known = kind in (FrameType.SETTINGS, *_ONE_ID, PRIORITY_UPDATE)
        if known and length > self._max_frame_bytes:
            raise ExcessiveLoad("control frame too large")
        return known

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameType.SETTINGS:
            self._settings = True
            settings = parse_settings(payload)
            if any(settings.get(name, 0) > 1 for name in _BOOLEANS):
                raise SettingsError("a setting with an invalid value")
            return
        buf = Buffer(data=payload)
        try:
            element = buf.pull_uint_var()
        except BufferReadError:
            raise FrameError("frame without an id") from None
        if kind == PRIORITY_UPDATE:
            # Bits of a stream id: 0 the server began it, 1 unidirectional.
            if element & 3 or element // 4 >= self._max_requests():
                raise IdError("PRIORITY_UPDATE of a stream that cannot be a request")
            return
        if not buf.eof():
            raise FrameError("a frame with one id has more bytes")
        if kind == FrameType.GOAWAY:
            if self._goaway is not None and element > self._goaway:
                raise IdError("GOAWAY of a larger id")
            self._goaway = element
        elif kind == FrameType.MAX_PUSH_ID:
            if self._max_push_id is not None and element < self._max_push_id:
                raise IdError("MAX_PUSH_ID of a smaller id")
            self._max_push_id = element
        else:
            raise IdError("CANCEL_PUSH: no push was promised")  # RFC 9114 section 7.2.3


def _decoder(uni: _Uni) -> None:
    """Accept Stream Cancellations; all other instructions need a dynamic table (RFC 9204 section 4.4)."""
    for octet in uni.buffer:
        if uni.integer_left:
            uni.integer_left -= 1
            if not octet & 0x80:
                uni.integer_left = 0
            elif not uni.integer_left:
                raise QpackDecoderStreamError("integer of more than 62 bits")
        elif octet & 0xC0 != 0x40:
            raise QpackDecoderStreamError("no dynamic table is in use")
        elif octet & 0x3F == 0x3F:
            uni.integer_left = _MAX_INTEGER_BYTES
    uni.buffer = b""
