"""Answers of one connection on their way into packets: how much of them is in memory, and which writers must wait.

aioquic keeps what is queued on a stream until it is acknowledged. So bodies are given to it in pieces:

    not sent yet      at most `send_high_bytes` of a stream: what a peer that does not read can make us hold
    in memory         at most `max_unacked_bytes` of a connection, whatever its window; when the worker as a whole holds
                      more than its share, at most `send_high_bytes` of a connection

Files are read when there is room, in the order of their requests, and never whole.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from velocity_edge.http.requests import MAX_INFORMATIONAL, FileRange, Headers
from velocity_edge.quic.budget import PerSecond
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.h3 import data_frame_header

log = logging.getLogger(__name__)

#: One read of a file. Larger ones gain little and delay every other connection.
_READ_BYTES: Final = 64 * 1024
#: What the streams of a connection together may have queued and not sent, as a multiple of `send_high_bytes`.
_UNSENT_FACTOR: Final = 4
_NO_BODY: Final = frozenset((204, 304))


@dataclass(slots=True)
class Held:
    """Bytes of bodies that all connections of a worker have in memory."""

    n_bytes: int = 0
    #: Log lines about files that cannot be read further: a truncated file may have many downloads.
    broken_lines: PerSecond = field(default_factory=lambda: PerSecond(1))


@dataclass(slots=True, eq=False)
class Stream:
    """One request and its answer."""

    handle: int
    stream_id: int
    head_only: bool
    request_ended: bool
    #: An extended CONNECT: one direction may end long before the other one.
    tunnel: bool = False
    answered: bool = False
    #: Informational responses that were sent.
    informational: int = 0
    #: Of the request, until it ends.
    trailers: Headers = ()
    #: The FIN is queued; nothing can be added.
    ended: bool = False
    #: What is still to be read into packets: files, and bytes of a handler; how far the first one is.
    pieces: deque[FileRange | bytes] = field(default_factory=deque)
    position: int = 0
    #: A writer waits for `StreamWritable`.
    waiting: bool = False


class Outbox:
    """The answers of one connection."""

    def __init__(self, quic: EdgeConnection, limits: Limits, held: Held) -> None:
        self._quic = quic
        self._limits = limits
        self._worker = held
        self._held = 0

    def use_limits(self, limits: Limits) -> None:
        """Use these bounds from now on."""
        self._limits = limits

    def respond(
        self, stream: Stream, status: int, head_frame: bytes, body: bytes | FileRange | None, fin: bool
    ) -> bool:
        """Queue the head, and the body or where to read it. False: there were enough informational responses."""
        stream_id = stream.stream_id
        if status < 200:
            stream.informational += 1
            if stream.informational > MAX_INFORMATIONAL:
                return False
            self._quic.send_stream_data(stream_id, head_frame)
            return True
        stream.answered = True
        length = body.length if isinstance(body, FileRange) else len(body or b"")
        if stream.head_only or status in _NO_BODY:
            body, length, fin = None, 0, True
        frame = head_frame
        if length:
            frame += data_frame_header(length)
            if isinstance(body, bytes) and length <= _READ_BYTES:
                frame += body
            elif body is not None:
                stream.pieces.append(body)
        self._quic.send_stream_data(stream_id, frame, end_stream=fin and not stream.pieces)
        stream.ended = fin
        return True

    def end(self, stream: Stream, trailers_frame: bytes) -> None:
        """Queue the end of a body: its trailers."""
        stream.ended = True
        if stream.pieces:
            stream.pieces.append(trailers_frame)
        else:
            self._quic.send_stream_data(stream.stream_id, trailers_frame, end_stream=True)

    def write(self, stream: Stream, data: bytes, fin: bool) -> int:
        """Queue more of a body; return what is buffered."""
        frame = data_frame_header(len(data)) + data if data else b""
        stream.ended = fin
        if stream.pieces:
            # A file or a large body is on its way: the rest queues behind it.
            if frame:
                stream.pieces.append(frame)
        elif frame or fin:
            self._quic.send_stream_data(stream.stream_id, frame, end_stream=fin)
        buffered = self.backlog(stream)
        stream.waiting = stream.waiting or buffered > self._limits.send_high_bytes
        return buffered

    def backlog(self, stream: Stream) -> int:
        """Return the bytes that a handler has written and that were not acknowledged."""
        queued = sum(len(piece) for piece in stream.pieces if isinstance(piece, bytes)) - stream.position
        return self._in_memory(stream) + max(0, queued)

    def taken(self, streams: Iterable[Stream]) -> int | None:
        """Return a number that grows with what the peer acknowledges of *streams*; None when nothing waits for that."""
        waiting, offset = False, 0
        for stream in streams:
            quic_stream = self._quic.stream(stream.stream_id)
            if quic_stream is not None:
                sender = quic_stream.sender
                offset += sender._buffer_start
                waiting = waiting or bool(stream.pieces) or sender._buffer_stop > sender._buffer_start
        return offset if waiting else None

    def pump(self, streams: Iterable[Stream]) -> tuple[bool, list[Stream]]:
        """Read on; return whether there is more to read, and the streams whose file cannot be read."""
        limits, all_streams = self._limits, list(streams)
        sources = [stream for stream in all_streams if stream.pieces]
        broken: list[Stream] = []
        if not sources:
            return False, broken
        self.account(all_streams)
        short = self._worker.n_bytes >= limits.max_unacked_bytes_per_worker
        room = (limits.send_high_bytes if short else limits.max_unacked_bytes) - self._held
        room = min(room, _UNSENT_FACTOR * limits.send_high_bytes - sum(map(self._unsent, all_streams)))
        for stream in sources:
            want = min(limits.send_high_bytes - self._unsent(stream), room)
            while want > 0 and stream.pieces:
                try:
                    n_bytes = self._read_on(stream, min(want, _READ_BYTES))
                except OSError as error:
                    # Truncated or unreadable meanwhile: the peer must not take a part for the whole.
                    if self._worker.broken_lines.take(time.monotonic_ns()):
                        log.warning("cannot read on in a file for an answer: %s", error)
                    broken.append(stream)
                    break
                want -= n_bytes
                room -= n_bytes
        self.account(all_streams)
        return any(stream.pieces for stream in sources), broken

    def account(self, streams: Iterable[Stream]) -> None:
        """Note what is in memory now."""
        held = sum(map(self._in_memory, streams))
        self._worker.n_bytes += held - self._held
        self._held = held

    def _in_memory(self, stream: Stream) -> int:
        """Return the bytes that aioquic holds of an answer: not sent, or not acknowledged."""
        quic_stream = self._quic.stream(stream.stream_id)
        return 0 if quic_stream is None else int(quic_stream.sender._buffer_stop - quic_stream.sender._buffer_start)

    def _unsent(self, stream: Stream) -> int:
        """Return the bytes that were never in a packet."""
        quic_stream = self._quic.stream(stream.stream_id)
        return 0 if quic_stream is None else int(quic_stream.sender._buffer_stop - quic_stream.sender.highest_offset)

    def _read_on(self, stream: Stream, n_bytes: int) -> int:
        piece = stream.pieces[0]
        if isinstance(piece, FileRange):
            length = piece.length
            data = os.pread(piece.file.fd, min(n_bytes, length - stream.position), piece.offset + stream.position)
            if not data:
                raise OSError(f"it ends after {stream.position} of {length} bytes")
        else:
            length = len(piece)
            data = piece[stream.position : stream.position + n_bytes]
        stream.position += len(data)
        if stream.position >= length:
            stream.pieces.popleft()
            stream.position = 0
        self._quic.send_stream_data(stream.stream_id, data, end_stream=stream.ended and not stream.pieces)
        return len(data)
